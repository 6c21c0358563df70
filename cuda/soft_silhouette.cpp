// Soft silhouette of a mesh outside its outline, its derivative, and the nearest point of the mesh.
// Python face: ntdm/rasterize.py. m = 1 - prod over faces (1 - exp(-d^2 / sigma^2)), d the distance in pixels
// from the pixel's centre to the projected face, faces farther than the reach left out; 1 inside.
//
// A face touches the few pixels around it, and most of those are inside the outline, where nothing is to be
// done: one bit a pixel says which are outside, and runs of pixels are computed in vectors from the first set
// bit on. Lanes that fall on inside pixels are computed and thrown away. One thread does an item, in face
// order, so results are the same to the last bit for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "projection.h"

namespace {

using ntdm::Vertex;

// Vectors of the compiler (GCC, Clang): eight pixels of a row, whatever registers the CPU has. Left to itself
// the compiler finds the loops below too long to turn into vectors.
constexpr int kLanes = 8;
template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float Value __attribute__((vector_size(32)));
    typedef int32_t Index __attribute__((vector_size(32)));
};
template <>
struct Lanes<double> {
    typedef double Value __attribute__((vector_size(64)));
    typedef int64_t Index __attribute__((vector_size(64)));
};

template <typename V, typename T>
inline V load(const T* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <typename V, typename T>
inline void store(T* to, V value) {
    std::memcpy(to, &value, sizeof value);
}

// 1 - exp(-d^2 / sigma^2) is kept above this, so that the product can be divided by one factor in the
// derivative.
constexpr double kLeast = 1e-12;

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

// Which pixels matter, one bit each.
class Bits {
 public:
    Bits(int height, int width) : words_((width + 63) / 64), bits_(size_t(height) * words_) {}
    void clear() { std::fill(bits_.begin(), bits_.end(), 0); }
    void set(int row, int column) {
        bits_[size_t(row) * words_ + column / 64] |= uint64_t(1) << (column % 64);
    }
    // The first set column in [from, to], or to + 1.
    int next(int row, int from, int to) const {
        if (from > to) return to + 1;
        const uint64_t* words = &bits_[size_t(row) * words_];
        int word = from / 64;
        uint64_t rest = words[word] & (~uint64_t(0) << (from % 64));
        while (!rest && ++word <= to / 64) rest = words[word];
        return rest ? std::min(word * 64 + __builtin_ctzll(rest), to + 1) : to + 1;
    }

 private:
    int words_;
    std::vector<uint64_t> bits_;
};

// A projected face as three segments from corner k to corner k + 1.
template <typename T>
struct Outline {
    T x[3], y[3], dx[3], dy[3], inverse[3];  // inverse: 1 / length^2, 0 for a point
    int left, right, top, bottom;            // pixels within the reach, an empty range where there are none

    Outline(const Vertex* const corner[3], double reach, int height, int width) {
        double low_x = corner[0]->x, high_x = low_x, low_y = corner[0]->y, high_y = low_y;
        for (int k = 1; k < 3; ++k) {
            low_x = std::min(low_x, corner[k]->x), high_x = std::max(high_x, corner[k]->x);
            low_y = std::min(low_y, corner[k]->y), high_y = std::max(high_y, corner[k]->y);
        }
        left = int(std::clamp(std::ceil(low_x - reach - 0.5), 0.0, double(width)));
        right = int(std::clamp(std::floor(high_x + reach - 0.5), -1.0, width - 1.0));
        top = int(std::clamp(std::ceil(low_y - reach - 0.5), 0.0, double(height)));
        bottom = int(std::clamp(std::floor(high_y + reach - 0.5), -1.0, height - 1.0));
    }

    void measure(const Vertex* const corner[3]) {
        for (int k = 0; k < 3; ++k) {
            const Vertex &from = *corner[k], &to = *corner[(k + 1) % 3];
            const double a = to.x - from.x, b = to.y - from.y, length = a * a + b * b;
            x[k] = T(from.x), y[k] = T(from.y), dx[k] = T(a), dy[k] = T(b);
            inverse[k] = length > 0 ? T(1 / length) : T(0);
        }
    }
};

// The nearest point of a face's outline: offset from it to the pixel, squared distance, weights of the
// corners. V is a number or a vector of numbers.
template <typename V>
struct Nearest {
    V x, y, square, weight[3];
};

template <typename V, typename T>
inline Nearest<V> nearest(const Outline<T>& face, V px, V py) {
    const V zero = px - px, one = zero + T(1);
    V t[3], x[3], y[3], square[3];
    for (int k = 0; k < 3; ++k) {
        const V vx = px - face.x[k], vy = py - face.y[k];
        V along = (vx * face.dx[k] + vy * face.dy[k]) * face.inverse[k];
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

template <typename T>
void soft_silhouette(const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,
                     const int64_t* face_index, int64_t batch, int64_t vertex_count, int64_t face_count,
                     int height, int width, double near, double sigma, double reach, int threads, T* soft,
                     int64_t* nearest_face, T* nearest_barycentric) {
    typedef typename Lanes<T>::Value V;
    typedef typename Lanes<T>::Index I;
    typedef std::decay_t<decltype(I{}[0])> Int;
    const V lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const int stride = width + kLanes;  // a run of lanes may stick out of its row
    const T scale = T(1 / (sigma * sigma)), limit = T(reach * reach);
#pragma omp parallel num_threads(threads)
    {
        std::vector<Vertex> projected(vertex_count);
        std::vector<T> product(size_t(height) * stride), square(size_t(height) * stride);
        std::vector<Int> face_of(size_t(height) * stride);
        Bits outside(height, width);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t* index = face_index + b * height * width;
            const double px = double(principal_point[2 * b]), py = double(principal_point[2 * b + 1]);
            ntdm::project(vertices + 3 * b * vertex_count, vertex_count, double(focal[b]), px, py, near,
                          projected.data());
            std::fill(product.begin(), product.end(), T(1));
            std::fill(square.begin(), square.end(), std::numeric_limits<T>::infinity());
            std::fill(face_of.begin(), face_of.end(), -1);
            outside.clear();
            for (int r = 0; r < height; ++r)
                for (int c = 0; c < width; ++c)
                    if (index[r * width + c] < 0) outside.set(r, c);

            for (int64_t f = 0; f < face_count; ++f) {
                const Vertex* corner[3] = {&projected[faces[3 * f]], &projected[faces[3 * f + 1]],
                                           &projected[faces[3 * f + 2]]};
                if (corner[0]->inverse * corner[1]->inverse * corner[2]->inverse == 0) continue;
                Outline<T> face(corner, reach, height, width);
                bool measured = false;
                for (int r = face.top; r <= face.bottom; ++r) {
                    for (int c = outside.next(r, face.left, face.right); c <= face.right;
                         c = outside.next(r, c + kLanes, face.right)) {
                        if (!measured) face.measure(corner);
                        measured = true;
                        const size_t at = size_t(r) * stride + c;
                        const V d = nearest(face, lane + T(c + 0.5), V{} + T(r + 0.5)).square;
                        V factor = 1 - exp_minus(d * scale);
                        factor = factor > T(kLeast) ? factor : V{} + T(kLeast);
                        factor = d <= limit ? factor : V{} + T(1);
                        store(&product[at], load<V>(&product[at]) * factor);
                        const V least = load<V>(&square[at]);
                        const auto nearer = (d <= limit) & (d < least);
                        store(&square[at], nearer ? d : least);
                        store(&face_of[at], nearer ? I{} + Int(f) : load<I>(&face_of[at]));
                    }
                }
            }

            for (int r = 0; r < height; ++r) {
                for (int c = 0; c < width; ++c) {
                    const int64_t pixel = (b * height + r) * width + c;
                    const bool inside = index[r * width + c] >= 0;
                    const int64_t f = inside ? -1 : face_of[size_t(r) * stride + c];
                    soft[pixel] = inside ? T(1) : 1 - product[size_t(r) * stride + c];
                    nearest_face[pixel] = f;
                    T* out = nearest_barycentric + 3 * pixel;
                    out[0] = out[1] = out[2] = 0;
                    if (f < 0) continue;
                    const Vertex* corner[3] = {&projected[faces[3 * f]], &projected[faces[3 * f + 1]],
                                               &projected[faces[3 * f + 2]]};
                    Outline<T> face(corner, reach, height, width);
                    face.measure(corner);
                    const Nearest<T> point = nearest(face, T(c + 0.5), T(r + 0.5));
                    double weight[3], sum = 0;
                    for (int k = 0; k < 3; ++k)
                        sum += weight[k] = double(point.weight[k]) * corner[k]->inverse;
                    for (int k = 0; k < 3; ++k) out[k] = T(weight[k] / sum);
                }
            }
        }
    }
}

// dm/d(d^2) = -(prod of the other factors) exp(-d^2 / sigma^2) / sigma^2. The nearest point q is the minimum
// over the segment, so moving along the segment does not count: d(d^2)/d(corner) = -2 weight (pixel - q).
template <typename T>
void soft_silhouette_backward(const T* vertices, const int64_t* faces, const T* focal,
                              const T* principal_point, const int64_t* face_index, const T* soft,
                              const T* grad, int64_t batch, int64_t vertex_count, int64_t face_count,
                              int height, int width, double near, double sigma, double reach, int threads,
                              T* grad_vertices, T* grad_focal, T* grad_principal_point) {
    typedef typename Lanes<T>::Value V;
    const V lane = {0, 1, 2, 3, 4, 5, 6, 7};
    const int stride = width + kLanes;
    const T scale = T(1 / (sigma * sigma)), limit = T(reach * reach);
#pragma omp parallel num_threads(threads)
    {
        std::vector<Vertex> projected(vertex_count);
        std::vector<T> coefficient(size_t(height) * stride);
        std::vector<double> sums(2 * vertex_count);
        Bits active(height, width);
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < batch; ++b) {
            const double f = double(focal[b]), px = double(principal_point[2 * b]),
                         py = double(principal_point[2 * b + 1]);
            const T* item = vertices + 3 * b * vertex_count;
            ntdm::project(item, vertex_count, f, px, py, near, projected.data());
            std::fill(sums.begin(), sums.end(), 0.0);
            std::fill(coefficient.begin(), coefficient.end(), T(0));
            active.clear();
            for (int r = 0; r < height; ++r)
                for (int c = 0; c < width; ++c) {
                    const int64_t pixel = (b * height + r) * width + c;
                    // A pixel beyond the reach has soft = 0: no face near it, no gradient.
                    if (face_index[pixel] >= 0 || grad[pixel] == 0 || soft[pixel] == 0) continue;
                    coefficient[size_t(r) * stride + c] = grad[pixel] * (1 - soft[pixel]) * 2 * scale;
                    active.set(r, c);
                }

            for (int64_t i = 0; i < face_count; ++i) {
                const int64_t* id = faces + 3 * i;
                const Vertex* corner[3] = {&projected[id[0]], &projected[id[1]], &projected[id[2]]};
                if (corner[0]->inverse * corner[1]->inverse * corner[2]->inverse == 0) continue;
                Outline<T> face(corner, reach, height, width);
                bool measured = false;
                V total[6] = {};
                for (int r = face.top; r <= face.bottom; ++r) {
                    for (int c = active.next(r, face.left, face.right); c <= face.right;
                         c = active.next(r, c + kLanes, face.right)) {
                        if (!measured) face.measure(corner);
                        measured = true;
                        const Nearest<V> point = nearest(face, lane + T(c + 0.5), V{} + T(r + 0.5));
                        const V e = exp_minus(point.square * scale);
                        V factor = 1 - e;
                        factor = factor > T(kLeast) ? factor : V{} + T(kLeast);
                        V g = load<V>(&coefficient[size_t(r) * stride + c]) * e / factor;
                        g = point.square <= limit ? g : V{};
                        for (int k = 0; k < 3; ++k) {
                            total[2 * k] += g * point.x * point.weight[k];
                            total[2 * k + 1] += g * point.y * point.weight[k];
                        }
                    }
                }
                if (!measured) continue;
                for (int k = 0; k < 6; ++k) {
                    double sum = 0;
                    for (int l = 0; l < kLanes; ++l) sum += double(total[k][l]);
                    sums[2 * id[k / 2] + k % 2] += sum;
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

#define NTDM_SOFT_SILHOUETTE(T, SUFFIX)                                                                     \
    void ntdm_soft_silhouette_##SUFFIX(const T* vertices, const int64_t* faces, const T* focal,             \
                                       const T* principal_point, const int64_t* face_index, int64_t batch,  \
                                       int64_t vertex_count, int64_t face_count, int64_t height,            \
                                       int64_t width, double near, double sigma, double reach, int threads, \
                                       T* soft, int64_t* nearest_face, T* nearest_barycentric) {            \
        soft_silhouette(vertices, faces, focal, principal_point, face_index, batch, vertex_count,           \
                        face_count, int(height), int(width), near, sigma, reach, threads, soft,             \
                        nearest_face, nearest_barycentric);                                                 \
    }                                                                                                       \
    void ntdm_soft_silhouette_backward_##SUFFIX(                                                            \
        const T* vertices, const int64_t* faces, const T* focal, const T* principal_point,                  \
        const int64_t* face_index, const T* soft, const T* grad, int64_t batch, int64_t vertex_count,       \
        int64_t face_count, int64_t height, int64_t width, double near, double sigma, double reach,         \
        int threads, T* grad_vertices, T* grad_focal, T* grad_principal_point) {                            \
        soft_silhouette_backward(vertices, faces, focal, principal_point, face_index, soft, grad, batch,    \
                                 vertex_count, face_count, int(height), int(width), near, sigma, reach,     \
                                 threads, grad_vertices, grad_focal, grad_principal_point);                 \
    }

extern "C" {
NTDM_SOFT_SILHOUETTE(float, f32)
NTDM_SOFT_SILHOUETTE(double, f64)
}
