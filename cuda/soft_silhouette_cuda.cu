// Soft silhouette on CUDA, its derivative, and the nearest point of the mesh, as soft_silhouette.cpp. Python
// face: ntdm/ops/soft_silhouette.py.
//
// Forward, a team is a tile of pixels, a lane a pixel. The lanes test as many faces' boxes against the tile
// at once, and then all of them visit, in face order, the faces that came near: no lists, hence nothing that
// could overflow. Backward, a team is a face and goes through the pixels of its box, widened by the reach.

#include <cmath>
#include <cstdint>

#include "launch.h"
#include "outline.h"
#include "project_each.h"

namespace {

using ntdm::Nearest;
using ntdm::Outline;
using ntdm::Stream;
using ntdm::Team;
using ntdm::Vertex;

typedef Team<32> Tile;
constexpr int kTileWidth = Tile::size >= 8 ? 8 : 1, kTileHeight = Tile::size / kTileWidth;

template <typename T>
struct Box {
    T left, right, top, bottom;
};

template <typename T>
struct Scene {
    const Vertex* projected;
    const int64_t *faces, *face_index;
    int64_t vertex_count, face_count, height, width;
    T scale, limit, far;  // 1 / sigma^2, reach^2, reach with a margin: boxes may take in more, never less

    NTDM_BODY bool outline(int64_t item, int64_t face, Outline<T>* out) const {
        return ntdm::outline(projected + item * vertex_count, faces + 3 * face, out);
    }
    NTDM_BODY T factor(T near) const { return ntdm::greater(1 - near, T(ntdm::kLeastFactor)); }
};

template <typename T>
struct MakeBoxes {
    Scene<T> in;
    Box<T>* boxes;

    NTDM_BODY void operator()(int64_t i) const {
        Outline<T> out;
        const T infinity = T(INFINITY);
        const bool usable = in.outline(i / in.face_count, i % in.face_count, &out);
        // A box that nothing is near to.
        boxes[i] = usable ? Box<T>{out.left(), out.right(), out.top(), out.bottom()}
                          : Box<T>{infinity, infinity, infinity, infinity};
    }
};

template <typename T>
struct Soften {
    Scene<T> in;
    const Box<T>* boxes;
    int64_t tile_rows, tile_columns;
    T* soft;
    int64_t* nearest_face;
    T* nearest_barycentric;

    NTDM_BODY void operator()(int64_t i, Tile team) const {
        const int64_t item = i / (tile_rows * tile_columns);
        const int64_t first_row = i / tile_columns % tile_rows * kTileHeight;
        const int64_t first_column = i % tile_columns * kTileWidth;
        const int64_t row = first_row + team.lane / kTileWidth;
        const int64_t column = first_column + team.lane % kTileWidth;
        const bool exists = row < in.height && column < in.width;
        const int64_t pixel = (item * in.height + row) * in.width + column;
        const bool active = exists && in.face_index[pixel] < 0;
        if (exists) {
            soft[pixel] = T(!active);
            nearest_face[pixel] = -1;
            for (int k = 0; k < 3; ++k) nearest_barycentric[3 * pixel + k] = 0;
        }
        if (!team.ballot(active)) return;

        const T left = T(first_column + 0.5), top = T(first_row + 0.5);
        const T right = left + (kTileWidth - 1), bottom = top + (kTileHeight - 1);
        const T x = T(column + 0.5), y = T(row + 0.5);
        T product = 1, least = T(INFINITY);
        int64_t face = -1;
        for (int64_t first = 0; first < in.face_count; first += team.size) {
            bool near = false;
            if (first + team.lane < in.face_count) {
                const Box<T> box = boxes[item * in.face_count + first + team.lane];
                near = ntdm::box_distance(left, right, top, bottom, box.left, box.right, box.top,
                                          box.bottom) <= in.far * in.far;
            }
            for (uint32_t bits = team.ballot(near); bits; bits &= bits - 1) {
                const int64_t f = first + ntdm::first_bit(bits);
                Outline<T> outline;
                in.outline(item, f, &outline);
                const T square = ntdm::nearest(outline, x, y).square;
                if (square <= in.limit) product *= in.factor(std::exp(-square * in.scale));
                face = square < least ? f : face;
                least = square < least ? square : least;
            }
        }
        if (!active || !(least <= in.limit)) return;
        soft[pixel] = 1 - product;
        nearest_face[pixel] = face;
        Outline<T> outline;
        in.outline(item, face, &outline);
        const Nearest<T> point = ntdm::nearest(outline, x, y);
        double weight[3], sum = 0;
        for (int k = 0; k < 3; ++k)
            sum += weight[k] = double(point.weight[k]) *
                               in.projected[item * in.vertex_count + in.faces[3 * face + k]].inverse;
        for (int k = 0; k < 3; ++k) nearest_barycentric[3 * pixel + k] = T(weight[k] / sum);
    }
};

// A team a face: gradients to x, y of its three projected corners. dm/d(d^2) = -(prod of the other factors)
// exp(-d^2 / sigma^2) / sigma^2; the nearest point q is the minimum over the segment, so moving along the
// segment does not count: d(d^2)/d(corner) = -2 weight (pixel - q).
template <typename T>
struct FaceGradient {
    Scene<T> in;
    const T *soft, *grad;
    double* face_sums;  // [batch, face_count, 6]

    NTDM_BODY void operator()(int64_t i, Team<8> team) const {
        const int64_t item = i / in.face_count;
        double sums[6] = {0, 0, 0, 0, 0, 0};
        Outline<T> outline;
        if (in.outline(item, i % in.face_count, &outline)) {
            const double left = ntdm::greater(std::ceil(outline.left() - in.far - 0.5), 0.0);
            const double right = ntdm::lesser(std::floor(outline.right() + in.far - 0.5), in.width - 1.0);
            const double top = ntdm::greater(std::ceil(outline.top() - in.far - 0.5), 0.0);
            const double bottom = ntdm::lesser(std::floor(outline.bottom() + in.far - 0.5), in.height - 1.0);
            const int64_t columns = left <= right ? int64_t(right - left) + 1 : 0;
            const int64_t rows = top <= bottom ? int64_t(bottom - top) + 1 : 0;
            for (int64_t p = team.lane; p < rows * columns; p += team.size) {
                const int64_t row = int64_t(top) + p / columns, column = int64_t(left) + p % columns;
                const int64_t pixel = (item * in.height + row) * in.width + column;
                // A pixel beyond the reach has soft = 0: no face near it, no gradient.
                if (in.face_index[pixel] >= 0 || grad[pixel] == 0 || soft[pixel] == 0) continue;
                const Nearest<T> point = ntdm::nearest(outline, T(column + 0.5), T(row + 0.5));
                if (!(point.square <= in.limit)) continue;
                const T e = std::exp(-point.square * in.scale);
                const T g = 2 * in.scale * grad[pixel] * (1 - soft[pixel]) * e / in.factor(e);
                for (int k = 0; k < 3; ++k) {
                    sums[2 * k] += double(g * point.x * point.weight[k]);
                    sums[2 * k + 1] += double(g * point.y * point.weight[k]);
                }
            }
        }
        for (int k = 0; k < 6; ++k) {
            const double sum = team.sum(sums[k]);
            if (team.lane == 0) face_sums[6 * i + k] = sum;
        }
    }
};

template <typename T>
struct VertexGradient {
    const T *vertices, *focal;
    const Vertex* projected;
    const int64_t *corner_start, *corners;  // 3 face + corner, by vertex
    int64_t vertex_count, face_count;
    const double* face_sums;
    T* grad_vertices;
    double* camera_sums;  // [batch, vertex_count, 3]: shares of focal length and principal point

    NTDM_BODY void operator()(int64_t i) const {
        const int64_t item = i / vertex_count, vertex = i % vertex_count;
        double gx = 0, gy = 0;
        for (int64_t n = corner_start[vertex]; n < corner_start[vertex + 1]; ++n) {
            const double* sum = face_sums + 6 * (item * face_count + corners[n] / 3) + corners[n] % 3 * 2;
            gx += sum[0];
            gy += sum[1];
        }
        const bool used = gx != 0 || gy != 0;  // a vertex that is not finite has no gradient, not NaN
        const double f = double(focal[item]), inverse = projected[i].inverse;
        const double x = used ? double(vertices[3 * i]) * inverse : 0;
        const double y = used ? double(vertices[3 * i + 1]) * inverse : 0;
        const double along = gx * x - gy * y;
        grad_vertices[3 * i] = T(used ? gx * f * inverse : 0);
        grad_vertices[3 * i + 1] = T(used ? -gy * f * inverse : 0);
        grad_vertices[3 * i + 2] = T(used ? along * f * inverse : 0);
        camera_sums[3 * i] = along;
        camera_sums[3 * i + 1] = gx;
        camera_sums[3 * i + 2] = gy;
    }
};

}  // namespace

#define NTDM_SOFT_SILHOUETTE(T, SUFFIX)                                                                     \
    int ntdm_cuda_soft_silhouette_##SUFFIX(                                                                 \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,                  \
        const int64_t* face_index, int64_t batch, int64_t vertex_count, int64_t face_count, int64_t height, \
        int64_t width, double near, double sigma, double reach, Vertex* projected, Box<T>* boxes, T* soft,  \
        int64_t* nearest_face, T* nearest_barycentric, Stream stream) {                                     \
        const Scene<T> scene = {projected,        faces,           face_index, vertex_count,                \
                                face_count,       height,          width,      T(1 / (sigma * sigma)),      \
                                T(reach * reach), T(reach * 1.001)};                                        \
        ntdm::project_each(vertices, focal, principal_point, batch, vertex_count, near, projected, stream); \
        const int64_t rows = (height + kTileHeight - 1) / kTileHeight;                                      \
        const int64_t columns = (width + kTileWidth - 1) / kTileWidth;                                      \
        ntdm::each(batch * face_count, stream, MakeBoxes<T>{scene, boxes});                                 \
        ntdm::each_team<32>(                                                                                \
            batch * rows * columns, stream,                                                                 \
            Soften<T>{scene, boxes, rows, columns, soft, nearest_face, nearest_barycentric});               \
        return ntdm::launch_error();                                                                        \
    }                                                                                                       \
    int ntdm_cuda_soft_silhouette_backward_##SUFFIX(                                                        \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,                  \
        const int64_t* face_index, const T* soft, const T* grad, int64_t batch, int64_t vertex_count,       \
        int64_t face_count, int64_t height, int64_t width, double near, double sigma, double reach,         \
        const int64_t* corner_start, const int64_t* corners, Vertex* projected, double* face_sums,          \
        T* grad_vertices, double* camera_sums, Stream stream) {                                             \
        const Scene<T> scene = {projected,        faces,           face_index, vertex_count,                \
                                face_count,       height,          width,      T(1 / (sigma * sigma)),      \
                                T(reach * reach), T(reach * 1.001)};                                        \
        ntdm::project_each(vertices, focal, principal_point, batch, vertex_count, near, projected, stream); \
        ntdm::each_team<8>(batch * face_count, stream, FaceGradient<T>{scene, soft, grad, face_sums});      \
        ntdm::each(batch * vertex_count, stream,                                                            \
                   VertexGradient<T>{vertices, focal, projected, corner_start, corners, vertex_count,       \
                                     face_count, face_sums, grad_vertices, camera_sums});                   \
        return ntdm::launch_error();                                                                        \
    }

extern "C" {
NTDM_SOFT_SILHOUETTE(float, f32)
NTDM_SOFT_SILHOUETTE(double, f64)
}
