// Z-buffer rasterizer, its derivative, and interpolation of vertex attributes. Python
// faces: ntdm/ops/rasterize.py and interpolate.py.
//
// Camera frame: x right, y up, z back; depth = -z. Pixel (row r, column c) has its centre at (c + 0.5, r +
// 0.5). All arithmetic is double whatever the storage type T: a face costs about the same. Every output
// element is written by exactly one thread in an order that does not depend on the number of threads, so
// results are the same to the last bit for any number.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "lanes.h"
#include "triangle.h"

namespace {

using ntdm::kLanes;
using ntdm::load;
using ntdm::store;
using ntdm::Triangle;
using ntdm::Vertex;

typedef ntdm::Lanes<double>::Value Doubles;
typedef ntdm::Lanes<float>::Value Floats;
typedef ntdm::Lanes<float>::Index Ints;

// Pixels whose centres a box contains: first column, first row, minus the last column, minus the last row.
// The box of a face is then the least of its corners' in every entry. kDropped marks a vertex that is not
// usable.
typedef int32_t Box __attribute__((vector_size(16)));
constexpr int32_t kDropped = std::numeric_limits<int32_t>::min();

inline Box least(Box a, Box b) {
    return a < b ? a : b;
}
inline Box greatest(Box a, Box b) {
    return a > b ? a : b;
}

inline Box box(const Vertex& vertex) {
    if (vertex.inverse == 0) return Box{} + kDropped;
    const auto whole = [](double value) { return int32_t(std::clamp(value, -1e9, 1e9)); };
    return Box{whole(std::ceil(vertex.x - 0.5)), whole(std::ceil(vertex.y - 0.5)),
               -whole(std::floor(vertex.x - 0.5)), -whole(std::floor(vertex.y - 0.5))};
}

// The columns first to last of one row of a triangle.
inline void fill_row(const Triangle& t, double y, int face, int first, int last, float* depth,
                     int32_t* index) {
    const double row[3] = {t.e[0].row(y), t.e[1].row(y), t.e[2].row(y)};
    if (last - first >= 2 * kLanes) {
        // Long rows are cut to the span between the edges, with a pixel of slack: the test below decides.
        double from = first, to = last;
        for (int k = 0; k < 3; ++k) {
            const double cross = -row[k] / t.e[k].a - 0.5;
            if (t.e[k].a > 0) from = std::max(from, cross - 1.0);
            if (t.e[k].a < 0) to = std::min(to, cross + 1.0);
        }
        // An edge that is almost a row sends its crossing to infinity: cut before the conversion.
        const int start = first;
        first = int(std::clamp(from, double(start), last + 1.0));
        last = int(std::clamp(to, start - 1.0, double(last)));
    }
    const Doubles steps = {0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5};
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int c = first; c <= last; c += kLanes) {
        const Doubles x = steps + double(c);
        const Doubles e0 = t.e[0].a * x + row[0], e1 = t.e[1].a * x + row[1], e2 = t.e[2].a * x + row[2];
        const Doubles low = e0 < e1 ? e0 : e1, lowest = low < e2 ? low : e2;
        const Doubles sum = e0 * t.inverse[0] + e1 * t.inverse[1] + e2 * t.inverse[2];
        const Floats z = __builtin_convertvector((e0 + e1 + e2) / sum, Floats);
        const Ints inside = __builtin_convertvector(lowest >= 0.0, Ints) & (lanes <= last - c);
        const Floats old = load<Floats>(depth + c);
        // Strictly nearer: faces come in order, so the lower index keeps a tie.
        const Ints nearer = inside & (z < old);
        store(depth + c, nearer ? z : old);
        store(index + c, nearer ? Ints{} + face : load<Ints>(index + c));
    }
}

// Rows [top, bottom) of one map into depth and index [(bottom - top), stride]; returns the number of dropped
// faces.
int64_t fill(const Vertex* vertices, const Box* boxes, const int64_t* faces, int64_t face_count, int width,
             int top, int bottom, int stride, float* depth, int32_t* index) {
    std::fill(depth, depth + int64_t(bottom - top) * stride, std::numeric_limits<float>::infinity());
    std::fill(index, index + int64_t(bottom - top) * stride, -1);
    const Box map = {0, top, 1 - width, 1 - bottom};
    int64_t dropped = 0;
    for (int64_t f = 0; f < face_count; ++f) {
        const int64_t* corner = faces + 3 * f;
        Box range = least(least(boxes[corner[0]], boxes[corner[1]]), boxes[corner[2]]);
        if (range[0] == kDropped) {
            ++dropped;
            continue;
        }
        range = greatest(range, map);
        const int left = range[0], low = range[1], right = -range[2], high = -range[3];
        if ((left > right) | (low > high)) continue;
        const Triangle t = ntdm::triangle(vertices[corner[0]], vertices[corner[1]], vertices[corner[2]]);
        if (!(t.area > ntdm::kDegenerate)) continue;
        for (int r = low; r <= high; ++r) {
            const int64_t offset = int64_t(r - top) * stride;
            fill_row(t, r + 0.5, int(f), left, right, depth + offset, index + offset);
        }
    }
    return dropped;
}

template <typename T>
void rasterize(const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,
               int64_t batch, int64_t vertex_count, int64_t face_count, int height, int width, double near,
               T* barycentric, T* depth, int64_t* face_index, int64_t* dropped, int threads) {
    // Small batches are cut into bands of rows; every band sees every face, so the result is the same.
    const int stride = width + kLanes;  // a vector may stick out of its row
    const int bands = batch > 0 ? int(std::clamp<int64_t>(threads / batch, 1, std::max(height, 1))) : 1;
#pragma omp parallel num_threads(threads)
    {
        std::vector<Vertex> projected(vertex_count);
        std::vector<Box> boxes(vertex_count);
        std::vector<float> near_depth;
        std::vector<int32_t> near_index;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < batch * bands; ++task) {
            const int64_t b = task / bands, band = task % bands;
            const int top = int(band * height / bands), bottom = int((band + 1) * height / bands);
            near_depth.resize(size_t(bottom - top) * stride);
            near_index.resize(size_t(bottom - top) * stride);
            ntdm::project(vertices + b * vertex_count * 3, vertex_count, double(focal[b]),
                          double(principal_point[2 * b]), double(principal_point[2 * b + 1]), near,
                          projected.data());
            for (int64_t i = 0; i < vertex_count; ++i) boxes[i] = box(projected[i]);
            const int64_t lost = fill(projected.data(), boxes.data(), faces, face_count, width, top, bottom,
                                      stride, near_depth.data(), near_index.data());
            if (band == 0) dropped[b] = lost;
            for (int r = top; r < bottom; ++r) {
                for (int c = 0; c < width; ++c) {
                    const int64_t pixel = (b * height + r) * width + c;
                    const int64_t f = near_index[size_t(r - top) * stride + c];
                    T* out = barycentric + 3 * pixel;
                    face_index[pixel] = f;
                    if (f < 0) {
                        out[0] = out[1] = out[2] = 0;
                        depth[pixel] = std::numeric_limits<T>::infinity();
                        continue;
                    }
                    const Triangle t = ntdm::triangle(projected[faces[3 * f]], projected[faces[3 * f + 1]],
                                                      projected[faces[3 * f + 2]]);
                    double weight[3];
                    depth[pixel] = T(ntdm::perspective(t, c + 0.5, r + 0.5, weight));
                    for (int k = 0; k < 3; ++k) out[k] = T(weight[k]);
                }
            }
        }
    }
}

template <typename T>
void rasterize_backward(const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,
                        const int64_t* face_index, const T* barycentric, const T* depth,
                        const T* grad_barycentric, const T* grad_depth, int64_t batch, int64_t vertex_count,
                        int height, int width, T* grad_vertices, T* grad_focal, T* grad_principal_point,
                        int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<double> sums(3 * vertex_count);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < batch; ++b) {
            std::fill(sums.begin(), sums.end(), 0.0);
            const T* item = vertices + 3 * b * vertex_count;
            const double f = double(focal[b]), px = double(principal_point[2 * b]),
                         py = double(principal_point[2 * b + 1]);
            double sum_focal = 0, sum_px = 0, sum_py = 0;
            for (int row = 0; row < height; ++row) {
                for (int column = 0; column < width; ++column) {
                    const int64_t pixel = (b * height + row) * width + column;
                    if (face_index[pixel] < 0) continue;
                    const int64_t* corner = faces + 3 * face_index[pixel];
                    const T* w = barycentric + 3 * pixel;
                    const double d = double(depth[pixel]);
                    double u[3];
                    if (!ntdm::ray_gradient(item, corner, w, d, grad_barycentric + 3 * pixel,
                                            double(grad_depth[pixel]), u))
                        continue;
                    for (int k = 0; k < 3; ++k)
                        for (int i = 0; i < 3; ++i) sums[3 * corner[k] + i] -= double(w[k]) * u[i];
                    const double x = column + 0.5 - px, y = row + 0.5 - py;
                    sum_focal += d * (y * u[1] - x * u[0]) / (f * f);
                    sum_px -= d * u[0] / f;
                    sum_py += d * u[1] / f;
                }
            }
            for (int64_t i = 0; i < 3 * vertex_count; ++i)
                grad_vertices[3 * b * vertex_count + i] = T(sums[i]);
            grad_focal[b] = T(sum_focal);
            grad_principal_point[2 * b] = T(sum_px);
            grad_principal_point[2 * b + 1] = T(sum_py);
        }
    }
}

// attribute_stride is vertex_count * channels, or 0 where all items share one table.
template <typename T>
void interpolate(const T* attributes, const int64_t* faces, const int64_t* face_index, const T* barycentric,
                 int64_t batch, int64_t attribute_stride, int64_t channels, int64_t pixels, T* out,
                 int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < batch * pixels; ++i) {
        T* target = out + i * channels;
        if (face_index[i] < 0) {
            std::fill(target, target + channels, T(0));
            continue;
        }
        const T* table = attributes + (i / pixels) * attribute_stride;
        const int64_t* corner = faces + 3 * face_index[i];
        const T *a = table + corner[0] * channels, *b = table + corner[1] * channels,
                *c = table + corner[2] * channels;
        const T w0 = barycentric[3 * i], w1 = barycentric[3 * i + 1], w2 = barycentric[3 * i + 2];
        for (int64_t k = 0; k < channels; ++k) target[k] = w0 * a[k] + w1 * b[k] + w2 * c[k];
    }
}

// grad_attributes [batch, vertex_count, channels], one table an item even where attributes are shared (the
// caller adds them up), or null where nobody asks for it.
template <typename T>
void interpolate_backward(const T* grad, const T* attributes, const int64_t* faces, const int64_t* face_index,
                          const T* barycentric, int64_t batch, int64_t attribute_stride, int64_t channels,
                          int64_t pixels, int64_t vertex_count, T* grad_attributes, T* grad_barycentric,
                          int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t item = 0; item < batch; ++item) {
        const T* table = attributes + item * attribute_stride;
        T* grad_table = grad_attributes ? grad_attributes + item * vertex_count * channels : nullptr;
        if (grad_table) std::fill(grad_table, grad_table + vertex_count * channels, T(0));
        for (int64_t i = item * pixels; i < (item + 1) * pixels; ++i) {
            T* grad_weight = grad_barycentric + 3 * i;
            grad_weight[0] = grad_weight[1] = grad_weight[2] = 0;
            if (face_index[i] < 0) continue;
            const T* g = grad + i * channels;
            for (int k = 0; k < 3; ++k) {
                const int64_t offset = faces[3 * face_index[i] + k] * channels;
                T sum = 0;
                for (int64_t c = 0; c < channels; ++c) sum += g[c] * table[offset + c];
                grad_weight[k] = sum;
                if (grad_table)
                    for (int64_t c = 0; c < channels; ++c)
                        grad_table[offset + c] += barycentric[3 * i + k] * g[c];
            }
        }
    }
}

}  // namespace

#define NTDM_RASTERIZE(T, SUFFIX)                                                                          \
    int ntdm_rasterize_##SUFFIX(                                                                           \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point, int64_t batch,  \
        int64_t vertex_count, int64_t face_count, int64_t height, int64_t width, double near,              \
        T* barycentric, T* depth, int64_t* face_index, int64_t* dropped, int threads) {                    \
        rasterize(vertices, faces, focal, principal_point, batch, vertex_count, face_count, int(height),   \
                  int(width), near, barycentric, depth, face_index, dropped, threads);                     \
        return 0;                                                                                          \
    }                                                                                                      \
    int ntdm_rasterize_backward_##SUFFIX(                                                                  \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,                 \
        const int64_t* face_index, const T* barycentric, const T* depth, const T* grad_barycentric,        \
        const T* grad_depth, int64_t batch, int64_t vertex_count, int64_t height, int64_t width,           \
        T* grad_vertices, T* grad_focal, T* grad_principal_point, int threads) {                           \
        rasterize_backward(vertices, faces, focal, principal_point, face_index, barycentric, depth,        \
                           grad_barycentric, grad_depth, batch, vertex_count, int(height), int(width),     \
                           grad_vertices, grad_focal, grad_principal_point, threads);                      \
        return 0;                                                                                          \
    }                                                                                                      \
    int ntdm_interpolate_##SUFFIX(const T* attributes, const int64_t* faces, const int64_t* face_index,    \
                                  const T* barycentric, int64_t batch, int64_t attribute_stride,           \
                                  int64_t channels, int64_t pixels, T* out, int threads) {                 \
        interpolate(attributes, faces, face_index, barycentric, batch, attribute_stride, channels, pixels, \
                    out, threads);                                                                         \
        return 0;                                                                                          \
    }                                                                                                      \
    int ntdm_interpolate_backward_##SUFFIX(                                                                \
        const T* grad, const T* attributes, const int64_t* faces, const int64_t* face_index,               \
        const T* barycentric, int64_t batch, int64_t attribute_stride, int64_t channels, int64_t pixels,   \
        int64_t vertex_count, T* grad_attributes, T* grad_barycentric, int threads) {                      \
        interpolate_backward(grad, attributes, faces, face_index, barycentric, batch, attribute_stride,    \
                             channels, pixels, vertex_count, grad_attributes, grad_barycentric, threads);  \
        return 0;                                                                                          \
    }

extern "C" {
NTDM_RASTERIZE(float, f32)
NTDM_RASTERIZE(double, f64)
}
