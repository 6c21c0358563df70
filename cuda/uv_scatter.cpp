// UV scatter: features of an image lifted onto the texture map, and the derivatives. Plain C interface;
// ntdm/ops/uv_scatter.py states shapes and equations and holds the torch twin.
//
// A task is an image, or a band of one where images are fewer than threads: of texel rows forward, of pixel
// rows backward. It looks at every quad that reaches its band and writes nothing else, so each sum is taken
// by one thread in raster order of quads, whatever the number of threads. Geometry is done in double for both
// element types: it decides which texels a quad owns.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "quad.h"

namespace {

using ntdm::Point;
using ntdm::Quad;
using ntdm::Texel;

struct Hit {
    int64_t texel;
    int64_t pixel;  // of the quad's first corner
    double s, t;    // the texel centre, along the quad's row and column
};

struct Shape {
    int64_t batch, h, w, d, q;
    double max_extent;
};

// Rows [first, last) of a map.
struct Rows {
    int64_t first, last;
};

// Band k of the rows of a map.
Rows band(int64_t k, int64_t bands, int64_t rows) {
    return {k * rows / bands, (k + 1) * rows / bands};
}

int64_t bands(int64_t batch, int threads) {
    return batch > 0 ? std::max<int64_t>(threads / batch, 1) : 1;
}

// body(hit) for every texel of the texel rows and every quad of the quad rows that owns it, in raster order
// of quads.
template <typename T, typename Body>
inline void each_hit(const T* uv, const uint8_t* coverage, const Shape& shape, Rows quads, Rows texels,
                     const Body& body) {
    Quad quad;
    for (int64_t i = quads.first; i < quads.last; ++i)
        for (int64_t j = 0; j + 1 < shape.w; ++j) {
            const int64_t first = i * shape.w + j;
            if (!quad.read(uv, coverage, shape.w, first, shape.max_extent)) continue;
            const Quad::Range range = quad.range(shape.q);
            const int64_t bottom = std::min(range.top + range.rows, texels.last);
            for (int64_t row = std::max(range.top, texels.first); row < bottom; ++row)
                for (int64_t column = range.left; column < range.left + range.columns; ++column) {
                    const Texel texel(row, column, shape.q);
                    if (!quad.contains(texel.centre)) continue;
                    Hit hit = {texel.number, first, 0, 0};
                    quad.invert(texel.centre, &hit.s, &hit.t);
                    body(hit);
                }
        }
}

template <typename T>
bool covered_uv_is_finite(const T* uv, const uint8_t* coverage, int64_t pixels) {
    for (int64_t p = 0; p < pixels; ++p)
        if (coverage[p] && !(std::isfinite(uv[2 * p]) && std::isfinite(uv[2 * p + 1]))) return false;
    return true;
}

// The hits of a band's texels, ordered by texel and, for one texel, in raster order of quads: texel k of the
// band has hit[order[i]], end[k] <= i < end[k + 1].
struct ByTexel {
    std::vector<Hit> hit;
    std::vector<int64_t> end, order;

    void sort(int64_t first, int64_t count) {
        end.assign(count + 2, 0);
        order.resize(hit.size());
        for (const Hit& one : hit) ++end[one.texel - first + 2];
        for (int64_t k = 1; k <= count; ++k) end[k + 1] += end[k];
        for (size_t i = 0; i < hit.size(); ++i) order[end[hit[i].texel - first + 1]++] = int64_t(i);
    }
};

// Texels [first, first + count) of one image: each is written once, in order.
template <typename T>
void average(const T* features, const ByTexel& hits, const Shape& shape, int64_t first, int64_t count,
             T* mean, T* weight) {
    const int64_t w = shape.w, d = shape.d;
    for (int64_t k = 0; k < count; ++k) {
        const int64_t begin = hits.end[k], end = hits.end[k + 1];
        T* out = mean + (first + k) * d;
        weight[first + k] = T(end - begin);
        if (begin == end) std::fill(out, out + d, T(0));
        const T share = T(1) / T(end - begin);
        for (int64_t i = begin; i < end; ++i) {
            const Hit& hit = hits.hit[hits.order[i]];
            const T s = static_cast<T>(hit.s), t = static_cast<T>(hit.t);
            const T w0 = (1 - s) * (1 - t) * share, w1 = s * (1 - t) * share, w2 = (1 - s) * t * share,
                    w3 = s * t * share;
            const T *f0 = features + hit.pixel * d, *f1 = f0 + d, *f2 = f0 + w * d, *f3 = f2 + d;
            if (i == begin) {
#pragma omp simd
                for (int64_t c = 0; c < d; ++c) out[c] = w0 * f0[c] + w1 * f1[c] + w2 * f2[c] + w3 * f3[c];
            } else {
#pragma omp simd
                for (int64_t c = 0; c < d; ++c) out[c] += w0 * f0[c] + w1 * f1[c] + w2 * f2[c] + w3 * f3[c];
            }
        }
    }
}

// One image's gradients at the pixel rows of a band. feature_grad and uv_grad may be null: not wanted. `hits`
// is scratch.
template <typename T>
void scatter_backward(const T* mean_grad, const T* features, const T* uv, const uint8_t* coverage,
                      const T* texel_weight, const Shape& shape, Rows pixels, T* feature_grad, T* uv_grad,
                      std::vector<Hit>* hits) {
    const int64_t w = shape.w, d = shape.d;
    if (feature_grad)
        std::fill(feature_grad + pixels.first * w * d, feature_grad + pixels.last * w * d, T(0));
    if (uv_grad) std::fill(uv_grad + pixels.first * w * 2, uv_grad + pixels.last * w * 2, T(0));
    // A quad reaches one row of pixels down.
    const Rows quads = {std::max<int64_t>(pixels.first - 1, 0), std::min(pixels.last, shape.h - 1)};
    hits->clear();
    each_hit(uv, coverage, shape, quads, {0, shape.q}, [&](const Hit& hit) { hits->push_back(hit); });
    for (size_t k = 0; k < hits->size(); ++k) {
        const Hit& hit = (*hits)[k];
        // Texels lie far apart in memory: asked for a few hits ahead.
        const T* ahead = mean_grad + (*hits)[std::min(k + 6, hits->size() - 1)].texel * d;
        for (int64_t c = 0; c < d; c += 64 / int64_t(sizeof(T))) __builtin_prefetch(ahead + c);
        const bool upper = hit.pixel >= pixels.first * w, lower = hit.pixel + w < pixels.last * w;
        const double s = hit.s, t = hit.t, share = 1.0 / texel_weight[hit.texel];
        const double weight[4] = {(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t};
        const T* grad = mean_grad + hit.texel * d;
        if (feature_grad) {  // Eq. 12
            // Two rows of pixels, each a run of 2 d channels.
            const auto add = [&](int64_t pixel, T left, T right) {
                T *g0 = feature_grad + pixel * d, *g1 = g0 + d;
#pragma omp simd
                for (int64_t c = 0; c < d; ++c) {
                    g0[c] += left * grad[c];
                    g1[c] += right * grad[c];
                }
            };
            if (upper) add(hit.pixel, T(weight[0] * share), T(weight[1] * share));
            if (lower) add(hit.pixel + w, T(weight[2] * share), T(weight[3] * share));
        }
        if (!uv_grad) continue;
        // a = dL/d(s, t): the upstream gradient contracted with dF/ds, dF/dt over channels.
        const T *f0 = features + hit.pixel * d, *f1 = f0 + d, *f2 = f0 + w * d, *f3 = f2 + d;
        T dot0 = 0, dot1 = 0, dot2 = 0, dot3 = 0;
#pragma omp simd reduction(+ : dot0, dot1, dot2, dot3)
        for (int64_t c = 0; c < d; ++c) {
            dot0 += grad[c] * f0[c];
            dot1 += grad[c] * f1[c];
            dot2 += grad[c] * f2[c];
            dot3 += grad[c] * f3[c];
        }
        const double a_s = share * ((1 - t) * (double(dot1) - dot0) + t * (double(dot3) - dot2));
        const double a_t = share * ((1 - s) * (double(dot2) - dot0) + s * (double(dot3) - dot1));
        const Point to = ntdm::gradient_to_corners(uv, hit.pixel, w, s, t, a_s, a_t);
        for (int k = 0; k < 4; ++k) {
            if (!(k & 2 ? lower : upper)) continue;
            T* at = uv_grad + 2 * (hit.pixel + (k & 2 ? w : 0) + (k & 1));
            at[0] += T(weight[k] * to.u);
            at[1] += T(weight[k] * to.v);
        }
    }
}

// What `forward` and `backward` return, instead of 0, where the hits of a task do not fit into memory: an
// exception must not leave a parallel region. NO_MEMORY of ntdm/ops/kernels.py.
constexpr int kNoMemory = 1;

// first_bad: the first image with a covered uv that is not finite, batch where none has.
template <typename T>
int forward(const T* features, const T* uv, const uint8_t* coverage, const Shape& shape, T* mean, T* weight,
            int64_t* first_bad, int threads) {
    const int64_t pixels = shape.h * shape.w, texels = shape.q * shape.q;
    const int64_t cuts = bands(shape.batch, threads), tasks = shape.batch * cuts;
    int64_t bad = shape.batch;
    int status = 0;
#pragma omp parallel num_threads(threads) if (tasks > 1)
    {
        ByTexel hits;
#pragma omp for schedule(dynamic) reduction(min : bad) reduction(max : status)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t n = task / cuts;
            const T* image_uv = uv + n * pixels * 2;
            const uint8_t* covered = coverage + n * pixels;
            if (!covered_uv_is_finite(image_uv, covered, pixels)) {
                bad = std::min(bad, n);
                continue;
            }
            const Rows rows = band(task % cuts, cuts, shape.q);
            const int64_t first = rows.first * shape.q, count = (rows.last - rows.first) * shape.q;
            try {
                hits.hit.clear();
                each_hit(image_uv, covered, shape, {0, shape.h - 1}, rows,
                         [&](const Hit& hit) { hits.hit.push_back(hit); });
                hits.sort(first, count);
            } catch (const std::bad_alloc&) {
                status = kNoMemory;
                continue;
            }
            average(features + n * pixels * shape.d, hits, shape, first, count, mean + n * texels * shape.d,
                    weight + n * texels);
        }
    }
    *first_bad = bad;
    return status;
}

template <typename T>
int backward(const T* mean_grad, const T* features, const T* uv, const uint8_t* coverage, const T* weight,
             const Shape& shape, T* feature_grad, T* uv_grad, int threads) {
    const int64_t pixels = shape.h * shape.w, texels = shape.q * shape.q, d = shape.d;
    const int64_t cuts = bands(shape.batch, threads), tasks = shape.batch * cuts;
    int status = 0;
#pragma omp parallel num_threads(threads) if (tasks > 1)
    {
        std::vector<Hit> hits;
#pragma omp for schedule(dynamic) reduction(max : status)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t n = task / cuts;
            try {
                scatter_backward(mean_grad + n * texels * d, features + n * pixels * d, uv + n * pixels * 2,
                                 coverage + n * pixels, weight + n * texels, shape,
                                 band(task % cuts, cuts, shape.h),
                                 feature_grad ? feature_grad + n * pixels * d : nullptr,
                                 uv_grad ? uv_grad + n * pixels * 2 : nullptr, &hits);
            } catch (const std::bad_alloc&) {
                status = kNoMemory;
            }
        }
    }
    return status;
}

}  // namespace

#define NTDM_UV_SCATTER(T, SUFFIX)                                                                          \
    extern "C" int ntdm_uv_scatter_##SUFFIX(                                                                \
        const T* features, const T* uv, const uint8_t* coverage, int64_t batch, int64_t h, int64_t w,       \
        int64_t d, int64_t q, double max_extent, T* mean, T* weight, int64_t* first_bad, int threads) {     \
        return forward<T>(features, uv, coverage, {batch, h, w, d, q, max_extent}, mean, weight, first_bad, \
                          threads);                                                                         \
    }                                                                                                       \
    extern "C" int ntdm_uv_scatter_backward_##SUFFIX(                                                       \
        const T* mean_grad, const T* features, const T* uv, const uint8_t* coverage, const T* weight,       \
        int64_t batch, int64_t h, int64_t w, int64_t d, int64_t q, double max_extent, T* feature_grad,      \
        T* uv_grad, int threads) {                                                                          \
        return backward<T>(mean_grad, features, uv, coverage, weight, {batch, h, w, d, q, max_extent},      \
                           feature_grad, uv_grad, threads);                                                 \
    }

NTDM_UV_SCATTER(float, f32)
NTDM_UV_SCATTER(double, f64)
