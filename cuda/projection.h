// Perspective projection shared by all kernels. Camera frame: x right, y up, z back; depth = -z.
// Pixel (row r, column c) has its centre at (c + 0.5, r + 0.5). Always double: projecting costs little, and
// what is decided in pixels (fill rule, reach) must not depend on the storage type.

#pragma once

#include <cmath>
#include <cstdint>

#include "device.h"

namespace ntdm {

struct Vertex {
    double x, y;     // pixels
    double inverse;  // 1 / depth; 0 marks a vertex that is not safely in front of the camera
};

template <typename T>
NTDM_DEVICE inline Vertex project(const T* point, double focal, double px, double py, double near) {
    const double depth = -double(point[2]);
    const double inverse = 1.0 / depth;
    const double x = px + focal * double(point[0]) * inverse;
    const double y = py - focal * double(point[1]) * inverse;
    // Written so that NaN fails it.
    const bool valid = depth > near && std::fabs(x) < 1e30 && std::fabs(y) < 1e30;
    return {valid ? x : 0.0, valid ? y : 0.0, valid ? inverse : 0.0};
}

template <typename T>
inline void project(const T* vertices, int64_t count, double focal, double px, double py, double near,
                    Vertex* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = project(vertices + 3 * i, focal, px, py, near);
}

}  // namespace ntdm
