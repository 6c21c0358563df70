// UV scatter: features of an image lifted onto the texture map, and the derivatives. Plain C interface;
// ntdm/uv_scatter.py states shapes and equations and holds the torch twin.
//
// One thread owns one image and visits its quads in raster order, so sums have one order whatever the number
// of threads. Geometry is done in double for both element types: it decides which texels a quad owns.

#include <algorithm>
#include <cmath>
#include <cstdint>
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

// Every (texel, quad) pair of one image, in raster order of quads. Returns false on a covered uv that is not
// finite.
template <typename T>
bool find_hits(const T* uv, const uint8_t* coverage, const Shape& shape, std::vector<Hit>* hits) {
    const int64_t h = shape.h, w = shape.w, q = shape.q;
    hits->clear();
    for (int64_t p = 0; p < h * w; ++p)
        if (coverage[p] && !(std::isfinite(uv[2 * p]) && std::isfinite(uv[2 * p + 1]))) return false;
    Quad quad;
    for (int64_t i = 0; i + 1 < h; ++i)
        for (int64_t j = 0; j + 1 < w; ++j) {
            const int64_t first = i * w + j;
            if (!quad.read(uv, coverage, w, first, shape.max_extent)) continue;
            const Quad::Range range = quad.range(q);
            for (int64_t row = range.top; row < range.top + range.rows; ++row)
                for (int64_t column = range.left; column < range.left + range.columns; ++column) {
                    const Texel texel(row, column, q);
                    if (!quad.contains(texel.centre)) continue;
                    Hit hit = {texel.number, first, 0, 0};
                    quad.invert(texel.centre, &hit.s, &hit.t);
                    hits->push_back(hit);
                }
        }
    return true;
}

template <typename T>
void scatter(const T* features, const std::vector<Hit>& hits, const Shape& shape, T* mean, T* weight) {
    const int64_t w = shape.w, d = shape.d, q = shape.q;
    std::fill(weight, weight + q * q, T(0));
    std::fill(mean, mean + q * q * d, T(0));
    for (const Hit& hit : hits) weight[hit.texel] += 1;
    for (const Hit& hit : hits) {
        const T share = 1 / weight[hit.texel];
        const T s = static_cast<T>(hit.s), t = static_cast<T>(hit.t);
        const T w0 = (1 - s) * (1 - t) * share, w1 = s * (1 - t) * share, w2 = (1 - s) * t * share,
                w3 = s * t * share;
        const T *f0 = features + hit.pixel * d, *f1 = f0 + d, *f2 = f0 + w * d, *f3 = f2 + d;
        T* out = mean + hit.texel * d;
#pragma omp simd
        for (int64_t c = 0; c < d; ++c) out[c] += w0 * f0[c] + w1 * f1[c] + w2 * f2[c] + w3 * f3[c];
    }
}

// feature_grad and uv_grad may be null: not wanted.
template <typename T>
void scatter_backward(const T* mean_grad, const T* features, const T* uv, const std::vector<Hit>& hits,
                      const Shape& shape, T* feature_grad, T* uv_grad, std::vector<int32_t>* count) {
    const int64_t w = shape.w, d = shape.d, q = shape.q;
    if (feature_grad) std::fill(feature_grad, feature_grad + shape.h * w * d, T(0));
    if (uv_grad) std::fill(uv_grad, uv_grad + shape.h * w * 2, T(0));
    count->assign(q * q, 0);
    for (const Hit& hit : hits) ++(*count)[hit.texel];
    for (const Hit& hit : hits) {
        const double s = hit.s, t = hit.t, share = 1.0 / (*count)[hit.texel];
        const double weight[4] = {(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t};
        const int64_t pixel[4] = {hit.pixel, hit.pixel + 1, hit.pixel + w, hit.pixel + w + 1};
        const T* grad = mean_grad + hit.texel * d;
        if (feature_grad) {  // Eq. 12
            const T w0 = T(weight[0] * share), w1 = T(weight[1] * share), w2 = T(weight[2] * share);
            const T w3 = T(weight[3] * share);
            // Two rows of pixels: four runs that do not overlap, for d channels each.
            T *g0 = feature_grad + pixel[0] * d, *g1 = g0 + d, *g2 = g0 + w * d, *g3 = g2 + d;
#pragma omp simd
            for (int64_t c = 0; c < d; ++c) {
                g0[c] += w0 * grad[c];
                g1[c] += w1 * grad[c];
                g2[c] += w2 * grad[c];
                g3[c] += w3 * grad[c];
            }
        }
        if (!uv_grad) continue;
        // a = dL/d(s, t): the upstream gradient contracted with dF/ds, dF/dt over channels.
        const T *f0 = features + pixel[0] * d, *f1 = f0 + d, *f2 = f0 + w * d, *f3 = f2 + d;
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
            uv_grad[2 * pixel[k]] += T(weight[k] * to.u);
            uv_grad[2 * pixel[k] + 1] += T(weight[k] * to.v);
        }
    }
}

// Returns -1, or the first image with a covered uv that is not finite.
template <typename T>
int64_t forward(const T* features, const T* uv, const uint8_t* coverage, const Shape& shape, T* mean,
                T* weight, int threads) {
    const int64_t pixels = shape.h * shape.w, texels = shape.q * shape.q, d = shape.d;
    int64_t bad = shape.batch;
#pragma omp parallel num_threads(threads) if (shape.batch > 1)
    {
        std::vector<Hit> hits;
#pragma omp for schedule(dynamic) reduction(min : bad)
        for (int64_t n = 0; n < shape.batch; ++n) {
            if (find_hits(uv + n * pixels * 2, coverage + n * pixels, shape, &hits))
                scatter(features + n * pixels * d, hits, shape, mean + n * texels * d, weight + n * texels);
            else
                bad = std::min(bad, n);
        }
    }
    return bad == shape.batch ? -1 : bad;
}

template <typename T>
void backward(const T* mean_grad, const T* features, const T* uv, const uint8_t* coverage, const Shape& shape,
              T* feature_grad, T* uv_grad, int threads) {
    const int64_t pixels = shape.h * shape.w, texels = shape.q * shape.q, d = shape.d;
#pragma omp parallel num_threads(threads) if (shape.batch > 1)
    {
        std::vector<Hit> hits;
        std::vector<int32_t> count;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < shape.batch; ++n) {
            find_hits(uv + n * pixels * 2, coverage + n * pixels, shape, &hits);
            scatter_backward(mean_grad + n * texels * d, features + n * pixels * d, uv + n * pixels * 2, hits,
                             shape, feature_grad ? feature_grad + n * pixels * d : nullptr,
                             uv_grad ? uv_grad + n * pixels * 2 : nullptr, &count);
        }
    }
}

}  // namespace

#define NTDM_UV_SCATTER(NAME, T)                                                                             \
    extern "C" int64_t NAME(const T* features, const T* uv, const uint8_t* coverage, int64_t batch,          \
                            int64_t h, int64_t w, int64_t d, int64_t q, double max_extent, T* mean,          \
                            T* weight, int threads) {                                                        \
        return forward<T>(features, uv, coverage, {batch, h, w, d, q, max_extent}, mean, weight, threads);   \
    }                                                                                                        \
    extern "C" void NAME##_backward(const T* mean_grad, const T* features, const T* uv,                      \
                                    const uint8_t* coverage, int64_t batch, int64_t h, int64_t w, int64_t d, \
                                    int64_t q, double max_extent, T* feature_grad, T* uv_grad,               \
                                    int threads) {                                                           \
        backward<T>(mean_grad, features, uv, coverage, {batch, h, w, d, q, max_extent}, feature_grad,        \
                    uv_grad, threads);                                                                       \
    }

NTDM_UV_SCATTER(ntdm_uv_scatter_f32, float)
NTDM_UV_SCATTER(ntdm_uv_scatter_f64, double)
