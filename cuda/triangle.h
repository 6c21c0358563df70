// Projected triangles and pixels: the fill rule. Shared by the CPU and the CUDA rasterizer; all arithmetic is
// double whatever the storage type, so that the rule is exact for float input.

#pragma once

#include <cmath>
#include <cstdint>

#include "projection.h"

namespace ntdm {

// Projected area (twice, square pixels) under which a triangle counts as a line and covers nothing.
constexpr double kDegenerate = 1e-12;

struct Edge {
    double a, b, c;
    NTDM_DEVICE double at(double x, double row) const { return a * x + row; }
    NTDM_DEVICE double row(double y) const { return b * y + c; }
};

// a x + b y + c: twice the signed area of (from, to, point). Written over sums and differences of the end
// points so that swapping them negates every coefficient exactly, fused multiply-add or not: a pixel centre
// near an edge shared by two triangles is then inside at least one of them.
NTDM_DEVICE inline Edge edge(const Vertex& from, const Vertex& to) {
    const double a = from.y - to.y, b = to.x - from.x;
    return {a, b, -0.5 * (a * (from.x + to.x) + b * (from.y + to.y))};
}

// The three edge functions, opposite to the three corners, positive inside whichever way the triangle winds.
struct Triangle {
    Edge e[3];
    double inverse[3];
    double area;
};

NTDM_DEVICE inline Triangle triangle(const Vertex& v0, const Vertex& v1, const Vertex& v2) {
    Triangle t{{edge(v1, v2), edge(v2, v0), edge(v0, v1)}, {v0.inverse, v1.inverse, v2.inverse}, 0};
    t.area = (v1.x - v0.x) * (v2.y - v0.y) - (v2.x - v0.x) * (v1.y - v0.y);
    if (t.area < 0) {
        for (Edge& e : t.e) e = {-e.a, -e.b, -e.c};
        t.area = -t.area;
    }
    return t;
}

// Perspective-correct weights of the corners at a pixel's centre; returns the depth there.
NTDM_DEVICE inline double perspective(const Triangle& t, double x, double y, double* weight) {
    double area = 0, sum = 0;
    for (int k = 0; k < 3; ++k) {
        const double e = t.e[k].at(x, t.e[k].row(y));
        area += e;
        weight[k] = e * t.inverse[k];
        sum += weight[k];
    }
    for (int k = 0; k < 3; ++k) weight[k] /= sum;
    return area / sum;
}

// What one pixel's barycentrics w and depth d, with gradients gw and gd, give to the corners (subtract w_k u
// from corner k's gradient) and to the ray. With M = [X0 X1 X2], ray r = ((x - px) / f, -(y - py) / f, -1):
// M w = d r, sum w = 1. Differentiating both and eliminating dw and dd gives
//     u = M^-T (gw - (gw . w + d gd) 1),   dL = u . (d dr - sum_k w_k dX_k).
// Returns false, u untouched, where the gradient is nothing. vertices [V, 3] are one item's.
template <typename T>
NTDM_DEVICE inline bool ray_gradient(const T* vertices, const int64_t* corner, const T* w, double d,
                                     const T* gw, double gd, double* u) {
    const double shift = double(gw[0]) * w[0] + double(gw[1]) * w[1] + double(gw[2]) * w[2] + d * gd;
    const double h[3] = {gw[0] - shift, gw[1] - shift, gw[2] - shift};
    if (h[0] == 0 && h[1] == 0 && h[2] == 0) return false;
    double X[3][3], determinant = 0;
    u[0] = u[1] = u[2] = 0;
    for (int k = 0; k < 3; ++k)
        for (int i = 0; i < 3; ++i) X[k][i] = double(vertices[3 * corner[k] + i]);
    for (int k = 0; k < 3; ++k) {
        const double *p = X[(k + 1) % 3], *q = X[(k + 2) % 3];
        const double cross[3] = {p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2],
                                 p[0] * q[1] - p[1] * q[0]};
        for (int i = 0; i < 3; ++i) u[i] += h[k] * cross[i];
        if (k == 0) determinant = X[0][0] * cross[0] + X[0][1] * cross[1] + X[0][2] * cross[2];
    }
    for (int i = 0; i < 3; ++i) u[i] /= determinant;
    return true;
}

}  // namespace ntdm
