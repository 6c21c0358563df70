// Rasterizer on CUDA: its derivative, and interpolation of vertex attributes, as rasterize.cpp. Python
// faces: ntdm/ops/rasterize.py and interpolate.py.
//
// The z-buffer holds depth (as float32, whose bits are ordered as the numbers are) and face in one integer,
// so the nearest face, and of equals the lowest, is a minimum that no order of threads can change.
// Derivatives are gathered: a face adds up its pixels, a vertex its faces, in the order of lists that Python
// sorted.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "launch.h"
#include "project_each.h"
#include "triangle.h"

namespace {

using ntdm::Stream;
using ntdm::Team;
using ntdm::Triangle;
using ntdm::Vertex;

constexpr int64_t kNothing = INT64_MAX;  // the z-buffer's background

NTDM_DEVICE inline double least(double a, double b, double c) {
    return ntdm::lesser(a, ntdm::lesser(b, c));
}
NTDM_DEVICE inline double greatest(double a, double b, double c) {
    return ntdm::greater(a, ntdm::greater(b, c));
}

// A team a face, a lane a pixel of its box.
struct Fill {
    const Vertex* projected;
    const int64_t* faces;
    int64_t vertex_count, face_count, height, width;
    int64_t *z_buffer, *dropped;

    NTDM_BODY void operator()(int64_t i, Team<8> team) const {
        const int64_t b = i / face_count, face = i % face_count;
        const Vertex* vertices = projected + b * vertex_count;
        const Vertex v0 = vertices[faces[3 * face]], v1 = vertices[faces[3 * face + 1]],
                     v2 = vertices[faces[3 * face + 2]];
        if (v0.inverse == 0 || v1.inverse == 0 || v2.inverse == 0) {
            if (team.lane == 0) ntdm::atomic_add(dropped + b, int64_t(1));
            return;
        }
        // Pixels whose centres the face's box contains.
        const double left = ntdm::greater(std::ceil(least(v0.x, v1.x, v2.x) - 0.5), 0.0);
        const double right = ntdm::lesser(std::floor(greatest(v0.x, v1.x, v2.x) - 0.5), width - 1.0);
        const double top = ntdm::greater(std::ceil(least(v0.y, v1.y, v2.y) - 0.5), 0.0);
        const double bottom = ntdm::lesser(std::floor(greatest(v0.y, v1.y, v2.y) - 0.5), height - 1.0);
        if (left > right || top > bottom) return;
        const Triangle t = ntdm::triangle(v0, v1, v2);
        if (!(t.area > ntdm::kDegenerate)) return;
        const int64_t columns = int64_t(right - left) + 1, rows = int64_t(bottom - top) + 1;
        for (int64_t p = team.lane; p < rows * columns; p += team.size) {
            const int64_t row = int64_t(top) + p / columns, column = int64_t(left) + p % columns;
            double e[3], area = 0, sum = 0;
            for (int k = 0; k < 3; ++k) {
                e[k] = t.e[k].at(column + 0.5, t.e[k].row(row + 0.5));
                area += e[k];
                sum += e[k] * t.inverse[k];
            }
            const float depth = float(area / sum);
            if (!(least(e[0], e[1], e[2]) >= 0 && depth < INFINITY)) continue;  // NaN fails it, too
            uint32_t bits;
            memcpy(&bits, &depth, sizeof bits);
            ntdm::atomic_min(z_buffer + (b * height + row) * width + column, int64_t(bits) << 32 | face);
        }
    }
};

template <typename T>
struct Resolve {
    const Vertex* projected;
    const int64_t *faces, *z_buffer;
    int64_t vertex_count, height, width;
    T *barycentric, *depth;
    int64_t* face_index;

    NTDM_BODY void operator()(int64_t pixel) const {
        const bool covered = z_buffer[pixel] != kNothing;
        const int64_t face = covered ? z_buffer[pixel] & 0xffffffff : -1;
        double weight[3] = {0, 0, 0}, distance = INFINITY;
        if (covered) {
            const Vertex* vertices = projected + pixel / (height * width) * vertex_count;
            const Triangle t = ntdm::triangle(vertices[faces[3 * face]], vertices[faces[3 * face + 1]],
                                              vertices[faces[3 * face + 2]]);
            distance = ntdm::perspective(t, pixel % width + 0.5, pixel / width % height + 0.5, weight);
        }
        face_index[pixel] = face;
        depth[pixel] = T(distance);
        for (int k = 0; k < 3; ++k) barycentric[3 * pixel + k] = T(weight[k]);
    }
};

// Lists made by sorting: members of group g are member[start[g]] to member[start[g + 1] - 1].
struct Groups {
    const int64_t *start, *member;
};

// A team a face: gradients to its three corners' positions, then to focal length and principal point.
constexpr int kFaceSums = 12;

template <typename T>
struct FaceGradient {
    const T *vertices, *focal, *principal_point, *barycentric, *depth, *grad_barycentric, *grad_depth;
    const int64_t* faces;
    Groups pixels;  // by item and face
    int64_t vertex_count, face_count, height, width;
    double* face_sums;

    NTDM_BODY void operator()(int64_t i, Team<8> team) const {
        const int64_t b = i / face_count;
        const int64_t* corner = faces + 3 * (i % face_count);
        const double f = double(focal[b]), px = double(principal_point[2 * b]),
                     py = double(principal_point[2 * b + 1]);
        double sums[kFaceSums] = {};
        for (int64_t n = pixels.start[i] + team.lane; n < pixels.start[i + 1]; n += team.size) {
            const int64_t pixel = pixels.member[n];
            const T* w = barycentric + 3 * pixel;
            const double d = double(depth[pixel]);
            double u[3];
            if (!ntdm::ray_gradient(vertices + 3 * b * vertex_count, corner, w, d,
                                    grad_barycentric + 3 * pixel, double(grad_depth[pixel]), u))
                continue;
            for (int k = 0; k < 9; ++k) sums[k] -= double(w[k / 3]) * u[k % 3];
            const double x = pixel % width + 0.5 - px, y = pixel / width % height + 0.5 - py;
            sums[9] += d * (y * u[1] - x * u[0]) / (f * f);
            sums[10] -= d * u[0] / f;
            sums[11] += d * u[1] / f;
        }
        for (int k = 0; k < kFaceSums; ++k) {
            const double sum = team.sum(sums[k]);
            if (team.lane == 0) face_sums[kFaceSums * i + k] = sum;
        }
    }
};

template <typename T>
struct VertexGradient {
    Groups corners;  // 3 face + corner, by vertex
    int64_t vertex_count, face_count;
    const double* face_sums;
    T* grad_vertices;

    NTDM_BODY void operator()(int64_t i) const {
        const int64_t vertex = i % vertex_count, first_face = i / vertex_count * face_count;
        double sums[3] = {0, 0, 0};
        for (int64_t n = corners.start[vertex]; n < corners.start[vertex + 1]; ++n) {
            const int64_t face = corners.member[n] / 3, corner = corners.member[n] % 3;
            for (int k = 0; k < 3; ++k)
                sums[k] += face_sums[kFaceSums * (first_face + face) + 3 * corner + k];
        }
        for (int k = 0; k < 3; ++k) grad_vertices[3 * i + k] = T(sums[k]);
    }
};

// attribute_stride is vertex_count * channels, or 0 where all items share one table.
template <typename T>
struct Interpolate {
    const T* attributes;
    const int64_t *faces, *face_index;
    const T* barycentric;
    int64_t attribute_stride, channels, pixels;
    T* out;

    NTDM_BODY void operator()(int64_t i) const {
        const int64_t pixel = i / channels, channel = i % channels, face = face_index[pixel];
        const T* table = attributes + pixel / pixels * attribute_stride + channel;
        T sum = 0;
        if (face >= 0)
            for (int k = 0; k < 3; ++k)
                sum += barycentric[3 * pixel + k] * table[faces[3 * face + k] * channels];
        out[i] = sum;
    }
};

template <typename T>
struct BarycentricGradient {
    const T *grad, *attributes;
    const int64_t *faces, *face_index;
    int64_t attribute_stride, channels, pixels;
    T* grad_barycentric;

    NTDM_BODY void operator()(int64_t pixel) const {
        const int64_t face = face_index[pixel];
        const T* table = attributes + pixel / pixels * attribute_stride;
        for (int k = 0; k < 3; ++k) {
            T sum = 0;
            if (face >= 0)
                for (int64_t c = 0; c < channels; ++c)
                    sum += grad[pixel * channels + c] * table[faces[3 * face + k] * channels + c];
            grad_barycentric[3 * pixel + k] = sum;
        }
    }
};

// A team a vertex, a lane a channel.
template <typename T>
struct AttributeGradient {
    const T *grad, *barycentric;
    Groups pixels, corners;
    int64_t vertex_count, face_count, channels;
    T* grad_attributes;

    NTDM_BODY void operator()(int64_t i, Team<8> team) const {
        const int64_t vertex = i % vertex_count, first_face = i / vertex_count * face_count;
        for (int64_t c = team.lane; c < channels; c += team.size) {
            T sum = 0;
            for (int64_t n = corners.start[vertex]; n < corners.start[vertex + 1]; ++n) {
                const int64_t face = first_face + corners.member[n] / 3, corner = corners.member[n] % 3;
                for (int64_t m = pixels.start[face]; m < pixels.start[face + 1]; ++m) {
                    const int64_t pixel = pixels.member[m];
                    sum += barycentric[3 * pixel + corner] * grad[pixel * channels + c];
                }
            }
            grad_attributes[i * channels + c] = sum;
        }
    }
};

}  // namespace

#define NTDM_RASTERIZE(T, SUFFIX)                                                                            \
    int ntdm_cuda_rasterize_##SUFFIX(const T* vertices, const int64_t* faces, const T* focal,                \
                                     const T* principal_point, int64_t batch, int64_t vertex_count,          \
                                     int64_t face_count, int64_t height, int64_t width, double near,         \
                                     Vertex* projected, int64_t* z_buffer, T* barycentric, T* depth,         \
                                     int64_t* face_index, int64_t* dropped, Stream stream) {                 \
        ntdm::project_each(vertices, focal, principal_point, batch, vertex_count, near, projected, stream);  \
        ntdm::each_team<8>(                                                                                  \
            batch * face_count, stream,                                                                      \
            Fill{projected, faces, vertex_count, face_count, height, width, z_buffer, dropped});             \
        ntdm::each(batch * height * width, stream,                                                           \
                   Resolve<T>{projected, faces, z_buffer, vertex_count, height, width, barycentric, depth,   \
                              face_index});                                                                  \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    int ntdm_cuda_rasterize_backward_##SUFFIX(                                                               \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,                   \
        const T* barycentric, const T* depth, const T* grad_barycentric, const T* grad_depth, int64_t batch, \
        int64_t vertex_count, int64_t face_count, int64_t height, int64_t width, const int64_t* pixel_start, \
        const int64_t* pixels, const int64_t* corner_start, const int64_t* corners, double* face_sums,       \
        T* grad_vertices, Stream stream) {                                                                   \
        ntdm::each_team<8>(batch * face_count, stream,                                                       \
                           FaceGradient<T>{vertices,                                                         \
                                           focal,                                                            \
                                           principal_point,                                                  \
                                           barycentric,                                                      \
                                           depth,                                                            \
                                           grad_barycentric,                                                 \
                                           grad_depth,                                                       \
                                           faces,                                                            \
                                           {pixel_start, pixels},                                            \
                                           vertex_count,                                                     \
                                           face_count,                                                       \
                                           height,                                                           \
                                           width,                                                            \
                                           face_sums});                                                      \
        ntdm::each(                                                                                          \
            batch * vertex_count, stream,                                                                    \
            VertexGradient<T>{{corner_start, corners}, vertex_count, face_count, face_sums, grad_vertices}); \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    int ntdm_cuda_interpolate_##SUFFIX(const T* attributes, const int64_t* faces, const int64_t* face_index, \
                                       const T* barycentric, int64_t batch, int64_t attribute_stride,        \
                                       int64_t channels, int64_t pixels, T* out, Stream stream) {            \
        ntdm::each(batch * pixels * channels, stream,                                                        \
                   Interpolate<T>{attributes, faces, face_index, barycentric, attribute_stride, channels,    \
                                  pixels, out});                                                             \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    int ntdm_cuda_barycentric_gradient_##SUFFIX(                                                             \
        const T* grad, const T* attributes, const int64_t* faces, const int64_t* face_index, int64_t batch,  \
        int64_t attribute_stride, int64_t channels, int64_t pixels, T* grad_barycentric, Stream stream) {    \
        ntdm::each(batch * pixels, stream,                                                                   \
                   BarycentricGradient<T>{grad, attributes, faces, face_index, attribute_stride, channels,   \
                                          pixels, grad_barycentric});                                        \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    int ntdm_cuda_attribute_gradient_##SUFFIX(                                                               \
        const T* grad, const T* barycentric, int64_t batch, int64_t vertex_count, int64_t face_count,        \
        int64_t channels, const int64_t* pixel_start, const int64_t* pixels, const int64_t* corner_start,    \
        const int64_t* corners, T* grad_attributes, Stream stream) {                                         \
        ntdm::each_team<8>(batch * vertex_count, stream,                                                     \
                           AttributeGradient<T>{grad,                                                        \
                                                barycentric,                                                 \
                                                {pixel_start, pixels},                                       \
                                                {corner_start, corners},                                     \
                                                vertex_count,                                                \
                                                face_count,                                                  \
                                                channels,                                                    \
                                                grad_attributes});                                           \
        return ntdm::launch_error();                                                                         \
    }

extern "C" {
NTDM_RASTERIZE(float, f32)
NTDM_RASTERIZE(double, f64)
}
