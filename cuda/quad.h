// Quads of the UV scatter: four neighbouring pixels in texture space, the texels they own, and where in the
// quad each lies. Shared by the CPU and the CUDA kernels; always double, since it decides ownership.

#pragma once

#include <cmath>
#include <cstdint>

#include "device.h"

namespace ntdm {

struct Point {
    double u, v;
};

NTDM_DEVICE inline Point operator-(Point a, Point b) {
    return {a.u - b.u, a.v - b.v};
}
NTDM_DEVICE inline double cross(Point a, Point b) {
    return a.u * b.v - a.v * b.u;
}

// b - a, with u the short way round its period.
NTDM_DEVICE inline Point wrapped_difference(Point b, Point a) {
    const double du = b.u - a.u;
    return {du - std::rint(du), b.v - a.v};
}

// As cross, for decisions: the explicit fma leaves the compiler nothing to contract differently at different
// call sites. Kernels that count and kernels that list must find the same quads.
NTDM_DEVICE inline double turn(Point a, Point b) {
    return std::fma(a.u, b.v, -(a.v * b.u));
}

// True if x lies to the left of the line a -> b, or on it. Two quads that share an edge call this with the
// same two pixels in the same order (right or down in the image), hence get the same answer and take opposite
// sides: a texel on a shared edge has exactly one owner. Corners are told apart because a fused product is
// not 0 there.
NTDM_DEVICE inline bool left_of(Point a, Point b, Point x) {
    const Point edge = wrapped_difference(b, a), to = wrapped_difference(x, a);
    const bool at_corner = ((to.u == 0) & (to.v == 0)) | ((to.u == edge.u) & (to.v == edge.v));
    return at_corner | (turn(edge, to) >= 0);  // bitwise: no branches that are never foreseen
}

// Corner k's bilinear weight at (s, t): corners are left and right above, left and right below.
template <typename T>
NTDM_DEVICE inline T bilinear_weight(int k, T s, T t) {
    return (k & 1 ? s : 1 - s) * (k & 2 ? t : 1 - t);
}

// A quad's four corners, in the order of w = ((1-s)(1-t), s(1-t), (1-s)t, st).
struct Quad {
    Point corner[4];   // as given, u in [0, 1]
    Point e1, e2, e3;  // X(s, t) = corner[0] + s e1 + t e2 + s t e3
    double u_low, u_high, v_low, v_high;
    bool positive;  // s to t turns from +u to +v

    // The quad of pixel `first`, its right and lower neighbours and the one between, in a map w wide. False
    // if a corner is not covered, or the quad is wider than the extent, degenerate, not convex or not finite.
    template <typename T>
    NTDM_DEVICE bool read(const T* uv, const uint8_t* coverage, int64_t w, int64_t first, double max_extent) {
        const int64_t pixel[4] = {first, first + 1, first + w, first + w + 1};
        if (!(coverage[pixel[0]] && coverage[pixel[1]] && coverage[pixel[2]] && coverage[pixel[3]]))
            return false;
        Point at[4];
        for (int k = 0; k < 4; ++k) {
            const double u = uv[2 * pixel[k]];
            at[k] = {u - std::floor(u), static_cast<double>(uv[2 * pixel[k] + 1])};
        }
        return set(at, max_extent);
    }

    NTDM_DEVICE bool set(const Point* at, double max_extent) {
        for (int k = 0; k < 4; ++k) corner[k] = at[k];
        Point rel[4];
        for (int k = 0; k < 4; ++k) rel[k] = wrapped_difference(corner[k], corner[0]);
        e1 = rel[1];
        e2 = rel[2];
        e3 = {rel[3].u - rel[1].u - rel[2].u, rel[3].v - rel[1].v - rel[2].v};
        u_low = u_high = v_low = v_high = 0;
        for (int k = 1; k < 4; ++k) {
            u_low = lesser(u_low, rel[k].u);
            u_high = greater(u_high, rel[k].u);
            v_low = lesser(v_low, rel[k].v);
            v_high = greater(v_high, rel[k].v);
        }
        if (u_high - u_low > max_extent || v_high - v_low > max_extent) return false;
        // The turn at each corner, walking 0 1 3 2: all of one sign in a convex quad.
        const double turns[4] = {
            turn(rel[1] - rel[0], rel[2] - rel[0]), turn(rel[3] - rel[1], rel[0] - rel[1]),
            turn(rel[2] - rel[3], rel[1] - rel[3]), turn(rel[0] - rel[2], rel[3] - rel[2])};
        positive = turns[0] > 0;
        for (double value : turns)
            if (positive ? !(value > 0) : !(value < 0)) return false;
        return true;
    }

    NTDM_DEVICE bool contains(Point x) const {
        return (left_of(corner[0], corner[1], x) == positive) &
               (left_of(corner[1], corner[3], x) == positive) &
               (left_of(corner[2], corner[3], x) != positive) &
               (left_of(corner[0], corner[2], x) != positive);
    }

    // Inverse bilinear of a point inside. Eliminating s leaves k0 + k1 t + k2 t^2 = 0, whose derivative at
    // the root is det J; inside a convex quad that has the sign of the orientation, which picks the root.
    NTDM_DEVICE void invert(Point x, double* s, double* t) const {
        const Point h = wrapped_difference(x, corner[0]);
        const double k0 = cross(h, e1), k1 = cross(h, e3) - cross(e2, e1), k2 = -cross(e2, e3);
        const double root = std::sqrt(greater(k1 * k1 - 4 * k0 * k2, 0.0)) * (positive ? 1 : -1);
        // Two forms of one root; take the one that adds magnitudes.
        double at = (k1 < 0) != (root < 0) ? (root - k1) / (2 * k2) : -2 * k0 / (k1 + root);
        at = lesser(greater(at, 0.0), 1.0);
        const Point along = {e1.u + at * e3.u, e1.v + at * e3.v};
        const double rest_u = h.u - at * e2.u, rest_v = h.v - at * e2.v;
        const double from = std::abs(along.u) > std::abs(along.v) ? rest_u / along.u : rest_v / along.v;
        *t = at;
        *s = lesser(greater(from, 0.0), 1.0);
    }

    // Rows and columns of a q x q map within which the quad's texels lie; columns run on beyond the seam.
    struct Range {
        int64_t top, left, rows, columns;
    };
    NTDM_DEVICE Range range(int64_t q) const {
        const double hair = 1e-6;  // widened by it; contains() decides
        const double u0 = corner[0].u, v0 = corner[0].v;
        const double top = greater(std::ceil((v0 + v_low) * q - 0.5 - hair), 0.0);
        const double bottom = lesser(std::floor((v0 + v_high) * q - 0.5 + hair), q - 1.0);
        const double left = std::ceil((u0 + u_low) * q - 0.5 - hair);
        const double right = std::floor((u0 + u_high) * q - 0.5 + hair);
        if (!(top <= bottom && left <= right)) return {0, 0, 0, 0};
        return {int64_t(top), int64_t(left), int64_t(bottom - top) + 1, int64_t(right - left) + 1};
    }
};

// A texel by its row and its column, which may run on beyond the seam, by less than a turn.
struct Texel {
    int64_t number;
    Point centre;

    NTDM_DEVICE Texel(int64_t row, int64_t free_column, int64_t q) {
        const int64_t column = free_column + (free_column < 0 ? q : free_column >= q ? -q : 0);
        number = row * q + column;
        centre = {(column + 0.5) / q, (row + 0.5) / q};
    }
};

// dL/dX of the point (s, t) of a quad, negated, given a = dL/d(s, t): times w_k it is dL/dU_k, since with J =
// dX/d(s, t), d(s, t)/dU_k = -w_k J^-1. `first` is pixel 0's place in uv, w the map's width.
template <typename T>
NTDM_DEVICE inline Point gradient_to_corners(const T* uv, int64_t first, int64_t w, double s, double t,
                                             double a_s, double a_t) {
    const int64_t pixel[4] = {first, first + 1, first + w, first + w + 1};
    const Point origin = {uv[2 * first], uv[2 * first + 1]};
    Point at[4];
    for (int k = 0; k < 4; ++k) at[k] = wrapped_difference({uv[2 * pixel[k]], uv[2 * pixel[k] + 1]}, origin);
    const Point x_s = {(1 - t) * (at[1].u - at[0].u) + t * (at[3].u - at[2].u),
                       (1 - t) * (at[1].v - at[0].v) + t * (at[3].v - at[2].v)};
    const Point x_t = {(1 - s) * (at[2].u - at[0].u) + s * (at[3].u - at[1].u),
                       (1 - s) * (at[2].v - at[0].v) + s * (at[3].v - at[1].v)};
    const double det = cross(x_s, x_t);  // J = [x_s x_t], columns
    return {-(a_s * x_t.v - a_t * x_s.v) / det, -(a_t * x_s.u - a_s * x_t.u) / det};
}

}  // namespace ntdm
