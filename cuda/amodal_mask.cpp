// Which cells of a grid a mesh touches. Python face: ntdm/ops/amodal_mask.py.
//
// A cell is touched by a face that meets the square of two thirds of its side in its middle, so that wires
// and plates seen edge-on are not lost between two centres. Triangle and square meet unless one of five
// directions separates them: the grid's two axes (the face's box) and the normals of the three edges.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "triangle.h"

namespace {

using ntdm::Triangle;
using ntdm::Vertex;

constexpr double kReach = 1.0 / 3;  // half the square's side, cells

// First and last of `count` cells whose squares meet the stretch from low to high; empty where last < first.
struct Cells {
    int first, last;
};

inline Cells cells(double low, double high, int count) {
    const double first = std::ceil(low - kReach - 0.5), last = std::floor(high + kReach - 0.5);
    return {int(std::clamp(first, 0.0, double(count))), int(std::clamp(last, -1.0, count - 1.0))};
}

void touch(const Vertex& v0, const Vertex& v1, const Vertex& v2, int height, int width, uint8_t* out) {
    const auto [left, right] = cells(std::min({v0.x, v1.x, v2.x}), std::max({v0.x, v1.x, v2.x}), width);
    const auto [top, bottom] = cells(std::min({v0.y, v1.y, v2.y}), std::max({v0.y, v1.y, v2.y}), height);
    if (left > right || top > bottom) return;
    const Triangle t = ntdm::triangle(v0, v1, v2);
    double reach[3];
    for (int k = 0; k < 3; ++k) reach[k] = kReach * (std::fabs(t.e[k].a) + std::fabs(t.e[k].b));
    for (int r = top; r <= bottom; ++r) {
        // Columns whose squares are not beyond any edge. Of two corners in one place the edge has no
        // direction and says nothing.
        double from = left, to = right;
        for (int k = 0; k < 3; ++k) {
            const double a = t.e[k].a, value = t.e[k].row(r + 0.5) + reach[k];
            const double border = -value / a - 0.5;  // a centre is half a cell from its column's number
            if (a > 0) from = std::max(from, std::ceil(border));
            if (a < 0) to = std::min(to, std::floor(border));
            if (a == 0 && value < 0) to = left - 1.0;
        }
        if (from <= to) std::memset(out + int64_t(r) * width + int(from), 1, size_t(to - from) + 1);
    }
}

}  // namespace

extern "C" {

// vertices [vertex_count, 3] in the camera frame, faces [face_count, 3], focal and principal point in cells;
// sets what is touched of out [height, width] to 1. A face with a corner nearer than `near` is left out. One
// thread does it all: faces may touch the same cells, and a mesh is little work.
int ntdm_amodal_mask_f64(const double* vertices, const int64_t* faces, int64_t vertex_count,
                         int64_t face_count, int64_t height, int64_t width, double focal, double px,
                         double py, double near, uint8_t* out, int) {
    std::vector<Vertex> projected(vertex_count);
    ntdm::project(vertices, vertex_count, focal, px, py, near, projected.data());
    for (int64_t f = 0; f < face_count; ++f) {
        const Vertex &v0 = projected[faces[3 * f]], &v1 = projected[faces[3 * f + 1]],
                     &v2 = projected[faces[3 * f + 2]];
        if (v0.inverse == 0 || v1.inverse == 0 || v2.inverse == 0) continue;
        touch(v0, v1, v2, int(height), int(width), out);
    }
    return 0;
}
}
