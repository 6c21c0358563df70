// The four texels around a point of a texture map, u wrapping and v clamped. Shared by the CPU and the CUDA
// look-up.

#pragma once

#include <cmath>
#include <cstdint>

#include "device.h"

namespace ntdm {

// The four texels around a point, their weights, and the weights' derivatives.
template <typename T>
struct Corners {
    int64_t texel[4];
    T weight[4], weight_du[4], weight_dv[4];

    NTDM_DEVICE Corners(T u, T v, int64_t q) {
        const T x = (u - std::floor(u)) * q - T(0.5);
        const T y_free = v * q - T(0.5);
        const T y = std::fmin(std::fmax(y_free, T(0)), T(q - 1));
        const T dy = y_free == y ? T(q) : T(0);  // clamped: no derivative
        const T x_floor = std::floor(x), y_floor = std::floor(y);
        const T fx = x - x_floor, fy = y - y_floor;
        // x lies in [-1/2, q - 1/2], and one rounding may bring u - floor(u) up to 1.
        const int64_t left = (static_cast<int64_t>(x_floor) + q) % q, right = (left + 1) % q;
        const int64_t top = static_cast<int64_t>(y_floor), bottom = top + 1 < q ? top + 1 : top;
        const T wx[2] = {1 - fx, fx}, wy[2] = {1 - fy, fy};
        const T dwx[2] = {T(-q), T(q)}, dwy[2] = {-dy, dy};
        const int64_t row[2] = {top, bottom}, column[2] = {left, right};
        for (int i = 0; i < 2; ++i)
            for (int j = 0; j < 2; ++j) {
                const int c = 2 * i + j;
                texel[c] = row[i] * q + column[j];
                weight[c] = wy[i] * wx[j];
                weight_du[c] = wy[i] * dwx[j];
                weight_dv[c] = dwy[i] * wx[j];
            }
    }
};

}  // namespace ntdm
