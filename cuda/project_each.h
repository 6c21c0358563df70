// The CUDA launchers' first step: every vertex of every item into the picture, once for all of its faces.

#pragma once

#include <cstdint>

#include "launch.h"
#include "projection.h"

namespace ntdm {

template <typename T>
struct Project {
    const T *vertices, *focal, *principal_point;
    int64_t vertex_count;
    double near;
    Vertex* projected;

    NTDM_BODY void operator()(int64_t i) const {
        const int64_t b = i / vertex_count;
        projected[i] = project(vertices + 3 * i, double(focal[b]), double(principal_point[2 * b]),
                               double(principal_point[2 * b + 1]), near);
    }
};

template <typename T>
void project_each(const T* vertices, const T* focal, const T* principal_point, int64_t batch,
                  int64_t vertex_count, double near, Vertex* projected, Stream stream) {
    each(batch * vertex_count, stream,
         Project<T>{vertices, focal, principal_point, vertex_count, near, projected});
}

}  // namespace ntdm
