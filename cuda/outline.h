// Projected faces as outlines, and their point nearest to a pixel: what the soft silhouette measures. Shared
// by the CPU kernels, on vectors of pixels, and the CUDA kernels.

#pragma once

#include "projection.h"

namespace ntdm {

// 1 - exp(-d^2 / sigma^2) is kept above this, so that the product over faces can be divided by one factor in
// the derivative.
constexpr double kLeastFactor = 1e-12;

// A projected face as three segments from corner k to corner k + 1.
template <typename T>
struct Outline {
    T x[3], y[3], dx[3], dy[3];
    T along_x[3], along_y[3];  // (dx, dy) / length^2, 0 for a point

    NTDM_DEVICE T left() const { return lesser(x[0], lesser(x[1], x[2])); }
    NTDM_DEVICE T right() const { return greater(x[0], greater(x[1], x[2])); }
    NTDM_DEVICE T top() const { return lesser(y[0], lesser(y[1], y[2])); }
    NTDM_DEVICE T bottom() const { return greater(y[0], greater(y[1], y[2])); }
};

// The outline of a face, in *out; false, *out untouched, if a corner is not usable.
template <typename T>
NTDM_DEVICE inline bool outline(const Vertex* vertices, const int64_t* face, Outline<T>* out) {
    const Vertex corner[3] = {vertices[face[0]], vertices[face[1]], vertices[face[2]]};
    if (corner[0].inverse * corner[1].inverse * corner[2].inverse == 0) return false;
    for (int k = 0; k < 3; ++k) {
        const Vertex &from = corner[k], &to = corner[(k + 1) % 3];
        out->x[k] = T(from.x), out->y[k] = T(from.y);
        out->dx[k] = T(to.x - from.x), out->dy[k] = T(to.y - from.y);
        const T length = out->dx[k] * out->dx[k] + out->dy[k] * out->dy[k];
        const T inverse = length > 0 ? 1 / length : T(0);
        out->along_x[k] = out->dx[k] * inverse, out->along_y[k] = out->dy[k] * inverse;
    }
    return true;
}

// Square of the distance between two boxes, 0 where they overlap.
template <typename T>
NTDM_DEVICE inline T box_distance(T left, T right, T top, T bottom, T other_left, T other_right, T other_top,
                                  T other_bottom) {
    const T x = greater(greater(left - other_right, other_left - right), T(0));
    const T y = greater(greater(top - other_bottom, other_top - bottom), T(0));
    return x * x + y * y;
}

// The nearest point of a face's outline: offset from it to the pixel, squared distance, weights of the
// corners. V is a number or a vector of numbers.
template <typename V>
struct Nearest {
    V x, y, square, weight[3];
};

template <typename V, typename T>
NTDM_DEVICE inline Nearest<V> nearest(const Outline<T>& face, V px, V py) {
    const V zero = px - px, one = zero + T(1);
    V t[3], x[3], y[3], square[3];
    for (int k = 0; k < 3; ++k) {
        const V vx = px - face.x[k], vy = py - face.y[k];
        V along = vx * face.along_x[k] + vy * face.along_y[k];
        along = along > zero ? along : zero;
        t[k] = along < one ? along : one;
        x[k] = vx - t[k] * face.dx[k];
        y[k] = vy - t[k] * face.dy[k];
        square[k] = x[k] * x[k] + y[k] * y[k];
    }
    // The first of equal segments wins.
    const auto second = square[1] < square[0];
    const V least = second ? square[1] : square[0];
    const auto third = square[2] < least;
    Nearest<V> out;
    out.square = third ? square[2] : least;
    out.x = third ? x[2] : (second ? x[1] : x[0]);
    out.y = third ? y[2] : (second ? y[1] : y[0]);
    out.weight[0] = third ? t[2] : (second ? zero : one - t[0]);
    out.weight[1] = third ? zero : (second ? one - t[1] : t[0]);
    out.weight[2] = third ? one - t[2] : (second ? t[1] : zero);
    return out;
}

}  // namespace ntdm
