// Soft silhouette of a mesh outside its outline, its derivative, and the nearest point of the mesh.
// Python face: ntdm/ops/soft_silhouette.py. m = 1 - prod over faces (1 - exp(-d^2 / sigma^2)), d the distance
// in pixels from the pixel's centre to the projected face, faces farther than the reach left out; 1 inside.
//
// nearby_faces.h makes groups of eight outside pixels and finds the faces near each; here a group meets its
// faces. One thread does an item, faces in order within a group, so results are the same to the last bit for
// any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "nearby_faces.h"

namespace {

using ntdm::Group;
using ntdm::kLanes;
using ntdm::Lanes;
using ntdm::load;
using ntdm::Nearest;
using ntdm::nearest;
using ntdm::Outline;
using ntdm::Scratch;
using ntdm::store;
using ntdm::Vertex;

// exp(-x) for x >= 0: 2^k times a polynomial of the rest; relative error 2e-7. Below 2^-125 it stays there.
inline Lanes<float>::Value exp_minus(Lanes<float>::Value x) {
    typedef Lanes<float>::Value Value;
    typedef Lanes<float>::Index Index;
    Value y = x * -1.44269504f;
    y = y > -125.0f ? y : Value{} - 125.0f;
    const Index k = __builtin_convertvector(y - 0.5f, Index);  // truncates: y - k in [-0.5, 0.5]
    const Value r = (y - __builtin_convertvector(k, Value)) * 0.69314718f;
    Value p = r * 1.3888889e-3f + 8.3333345e-3f;
    p = p * r + 4.1666668e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (Value)((k + 127) << 23);
}
inline Lanes<double>::Value exp_minus(Lanes<double>::Value x) {
    for (int i = 0; i < kLanes; ++i) x[i] = std::exp(-x[i]);
    return x;
}

template <typename T>
void soft_silhouette(const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,
                     const int64_t* face_index, int64_t batch, int64_t vertex_count, int64_t face_count,
                     int height, int width, double near, double sigma, double reach, T* soft,
                     int64_t* nearest_face, T* nearest_barycentric, int threads) {
    typedef typename Lanes<T>::Value V;
    typedef typename Lanes<T>::Index I;
    typedef std::decay_t<decltype(I{}[0])> Int;
    const T scale = T(1 / (sigma * sigma)), limit = T(reach * reach);
#pragma omp parallel num_threads(threads)
    {
        Scratch<T> scratch(vertex_count, face_count, int64_t(height) * width);
        std::vector<Vertex>& projected = scratch.projected;
        const std::vector<Outline<T>>& outlines = scratch.outlines;
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t* index = face_index + b * height * width;
            T* soft_item = soft + b * height * width;
            int64_t* nearest_item = nearest_face + b * height * width;
            T* barycentric_item = nearest_barycentric + 3 * b * height * width;
            for (int i = 0; i < height * width; ++i) {
                scratch.active[i] = index[i] < 0;
                soft_item[i] = T(index[i] >= 0);
            }
            std::fill(nearest_item, nearest_item + height * width, -1);
            std::fill(barycentric_item, barycentric_item + 3 * height * width, T(0));
            ntdm::project(vertices + 3 * b * vertex_count, vertex_count, double(focal[b]),
                          double(principal_point[2 * b]), double(principal_point[2 * b + 1]), near,
                          projected.data());
            ntdm::prepare(faces, face_count, scratch);

            const auto visit = [&](const Group<T>& group, const int32_t* near_faces, int32_t count) {
                V product = V{} + T(1), least = V{} + std::numeric_limits<T>::infinity();
                I face = I{} - 1;
                for (int32_t i = 0; i < count; ++i) {
                    const V d = nearest(outlines[near_faces[i]], group.x, group.y).square;
                    V factor = 1 - exp_minus(d * scale);
                    factor = factor > T(ntdm::kLeastFactor) ? factor : V{} + T(ntdm::kLeastFactor);
                    product *= d <= limit ? factor : V{} + T(1);
                    face = d < least ? I{} + Int(near_faces[i]) : face;
                    least = d < least ? d : least;
                }
                for (int l = 0; l < group.count; ++l) {
                    const int pixel = group.pixel[l];
                    if (!(least[l] <= limit)) continue;
                    soft_item[pixel] = 1 - product[l];
                    nearest_item[pixel] = face[l];
                    const Nearest<T> point = nearest(outlines[face[l]], T(group.x[l]), T(group.y[l]));
                    double weight[3], sum = 0;
                    for (int k = 0; k < 3; ++k)
                        sum += weight[k] =
                            double(point.weight[k]) * projected[faces[3 * face[l] + k]].inverse;
                    for (int k = 0; k < 3; ++k) barycentric_item[3 * pixel + k] = T(weight[k] / sum);
                }
            };
            ntdm::visit_groups(scratch, height, width, T(reach), visit);
        }
    }
}

// dm/d(d^2) = -(prod of the other factors) exp(-d^2 / sigma^2) / sigma^2. The nearest point q is the minimum
// over the segment, so moving along the segment does not count: d(d^2)/d(corner) = -2 weight (pixel - q).
template <typename T>
void soft_silhouette_backward(const T* vertices, const int64_t* faces, const T* focal,
                              const T* principal_point, const int64_t* face_index, const T* soft,
                              const T* grad, int64_t batch, int64_t vertex_count, int64_t face_count,
                              int height, int width, double near, double sigma, double reach,
                              T* grad_vertices, T* grad_focal, T* grad_principal_point, int threads) {
    typedef typename Lanes<T>::Value V;
    const T scale = T(1 / (sigma * sigma)), limit = T(reach * reach);
#pragma omp parallel num_threads(threads)
    {
        Scratch<T> scratch(vertex_count, face_count, int64_t(height) * width);
        std::vector<Vertex>& projected = scratch.projected;
        const std::vector<Outline<T>>& outlines = scratch.outlines;
        // One sum a lane, so that adding up across lanes is done once a face: x, y of its three corners.
        std::vector<T> totals(size_t(face_count) * 6 * kLanes);
        std::vector<double> sums(2 * vertex_count);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < batch; ++b) {
            const double f = double(focal[b]), px = double(principal_point[2 * b]),
                         py = double(principal_point[2 * b + 1]);
            const T* item = vertices + 3 * b * vertex_count;
            const int64_t* index = face_index + b * height * width;
            const T *grad_item = grad + b * height * width, *soft_item = soft + b * height * width;
            // A pixel beyond the reach has soft = 0: no face near it, no gradient.
            for (int i = 0; i < height * width; ++i)
                scratch.active[i] = (index[i] < 0) & (grad_item[i] != 0) & (soft_item[i] != 0);
            ntdm::project(item, vertex_count, f, px, py, near, projected.data());
            ntdm::prepare(faces, face_count, scratch);
            std::fill(totals.begin(), totals.end(), T(0));
            std::fill(sums.begin(), sums.end(), 0.0);

            const auto visit = [&](const Group<T>& group, const int32_t* near_faces, int32_t count) {
                V coefficient = V{};
                for (int l = 0; l < group.count; ++l)
                    coefficient[l] = 2 * scale * grad_item[group.pixel[l]] * (1 - soft_item[group.pixel[l]]);
                for (int32_t i = 0; i < count; ++i) {
                    const Nearest<V> point = nearest(outlines[near_faces[i]], group.x, group.y);
                    const V e = exp_minus(point.square * scale);
                    V factor = 1 - e;
                    factor = factor > T(ntdm::kLeastFactor) ? factor : V{} + T(ntdm::kLeastFactor);
                    const V g = point.square <= limit ? coefficient * e / factor : V{};
                    T* total = &totals[size_t(near_faces[i]) * 6 * kLanes];
                    for (int k = 0; k < 3; ++k, total += 2 * kLanes) {
                        store(total, load<V>(total) + g * point.x * point.weight[k]);
                        store(total + kLanes, load<V>(total + kLanes) + g * point.y * point.weight[k]);
                    }
                }
            };
            ntdm::visit_groups(scratch, height, width, T(reach), visit);
            for (int64_t i = 0; i < scratch.boxes.count; ++i) {
                const T* total = &totals[size_t(scratch.boxes.face[i]) * 6 * kLanes];
                const int64_t* corner = faces + 3 * scratch.boxes.face[i];
                for (int k = 0; k < 6; ++k, total += kLanes) {
                    const V t = load<V>(total);
                    sums[2 * corner[k / 2] + k % 2] +=
                        double(((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7])));
                }
            }

            double sum_focal = 0, sum_px = 0, sum_py = 0;
            for (int64_t i = 0; i < vertex_count; ++i) {
                const double gx = sums[2 * i], gy = sums[2 * i + 1], inverse = projected[i].inverse;
                const double x = double(item[3 * i]) * inverse, y = double(item[3 * i + 1]) * inverse;
                T* out = grad_vertices + 3 * (b * vertex_count + i);
                const bool used = gx != 0 || gy != 0;  // a vertex that is not finite has no gradient, not NaN
                out[0] = used ? T(gx * f * inverse) : T(0);
                out[1] = used ? T(-gy * f * inverse) : T(0);
                out[2] = used ? T((gx * x - gy * y) * f * inverse) : T(0);
                if (!used) continue;
                sum_focal += gx * x - gy * y;
                sum_px += gx;
                sum_py += gy;
            }
            grad_focal[b] = T(sum_focal);
            grad_principal_point[2 * b] = T(sum_px);
            grad_principal_point[2 * b + 1] = T(sum_py);
        }
    }
}

}  // namespace

#define NTDM_SOFT_SILHOUETTE(T, SUFFIX)                                                                   \
    int ntdm_soft_silhouette_##SUFFIX(const T* vertices, const int64_t* faces, const T* focal,            \
                                      const T* principal_point, const int64_t* face_index, int64_t batch, \
                                      int64_t vertex_count, int64_t face_count, int64_t height,           \
                                      int64_t width, double near, double sigma, double reach, T* soft,    \
                                      int64_t* nearest_face, T* nearest_barycentric, int threads) {       \
        soft_silhouette(vertices, faces, focal, principal_point, face_index, batch, vertex_count,         \
                        face_count, int(height), int(width), near, sigma, reach, soft, nearest_face,      \
                        nearest_barycentric, threads);                                                    \
        return 0;                                                                                         \
    }                                                                                                     \
    int ntdm_soft_silhouette_backward_##SUFFIX(                                                           \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,                \
        const int64_t* face_index, const T* soft, const T* grad, int64_t batch, int64_t vertex_count,     \
        int64_t face_count, int64_t height, int64_t width, double near, double sigma, double reach,       \
        T* grad_vertices, T* grad_focal, T* grad_principal_point, int threads) {                          \
        soft_silhouette_backward(vertices, faces, focal, principal_point, face_index, soft, grad, batch,  \
                                 vertex_count, face_count, int(height), int(width), near, sigma, reach,   \
                                 grad_vertices, grad_focal, grad_principal_point, threads);               \
        return 0;                                                                                         \
    }

extern "C" {
NTDM_SOFT_SILHOUETTE(float, f32)
NTDM_SOFT_SILHOUETTE(double, f64)
}
