// UV scatter on CUDA: the same sums as uv_scatter.cpp, gathered. ntdm/uv_scatter_cuda.py allocates and calls:
//
//     count    how many texels each quad owns, how many quads own each texel
//     (running sums of both, in torch)
//     list     every hit, a quad and a texel it owns, in raster order of quads; the hits of each texel
//     average  a team a texel goes through its hits
//     ..._gradient  a team a pixel, or a quad, goes through its hits
//
// There are as many hits as were counted: no list can overflow. A texel's list is filled in any order and
// then sorted, so every sum is taken in raster order of quads.

#include <cmath>
#include <cstdint>

#include "launch.h"
#include "quad.h"
#include "storage.h"

namespace {

using ntdm::Computed;
using ntdm::Point;
using ntdm::Quad;
using ntdm::Stream;
using ntdm::Team;

struct Map {
    int64_t h, w, d, q;
    double max_extent;

    int64_t pixels() const { return h * w; }
    int64_t texels() const { return q * q; }
};

// uv and coverage of all images; `pixel` counts through them, and so do quads, by their first pixel.
template <typename T>
struct Quads {
    const T* uv;
    const uint8_t* coverage;
    int64_t h, w, q;
    double max_extent;

    Quads(const T* uv, const uint8_t* coverage, const Map& map)
        : uv(uv), coverage(coverage), h(map.h), w(map.w), q(map.q), max_extent(map.max_extent) {}

    // Calls visit(texel, centre) for the texels of the quad; texel counts through the images.
    template <typename Visit>
    NTDM_BODY void each_texel(int64_t pixel, Visit visit) const {
        const int64_t row = pixel / w % h, column = pixel % w, first_texel = pixel / (h * w) * q * q;
        if (row + 1 >= h || column + 1 >= w) return;
        Quad quad;
        if (!quad.read(uv, coverage, w, pixel, max_extent)) return;
        quad.each_texel(q, [&](int64_t texel, Point x) { visit(first_texel + texel, x, quad); });
    }
};

template <typename T>
struct Count {
    Quads<T> quads;
    int32_t *of_quad, *of_texel;
    int64_t* bad;  // the first image with a covered uv that is not finite

    NTDM_BODY void operator()(int64_t pixel) const {
        const T u = quads.uv[2 * pixel], v = quads.uv[2 * pixel + 1];
        if (quads.coverage[pixel] && !(std::isfinite(u) && std::isfinite(v)))
            ntdm::atomic_min(bad, pixel / (quads.h * quads.w));
        int32_t count = 0;
        quads.each_texel(pixel, [&](int64_t texel, Point, const Quad&) {
            ++count;
            ntdm::atomic_add(of_texel + texel, 1);
        });
        of_quad[pixel] = count;
    }
};

struct Hits {
    int64_t *quad, *texel;  // pixel of the quad's first corner; both count through the images
    double* st;             // the texel's centre, along the quad's row and column
};

template <typename T>
struct List {
    Quads<T> quads;
    const int32_t *of_quad, *of_texel;
    const int64_t *quad_end, *texel_end;  // running sums of the counts
    Hits hits;
    int32_t* taken;     // slots of each texel's list that are filled
    int64_t* by_texel;  // hits of texel after texel, or null: not wanted

    NTDM_BODY void operator()(int64_t pixel) const {
        int64_t hit = quad_end[pixel] - of_quad[pixel];
        quads.each_texel(pixel, [&](int64_t texel, Point x, const Quad& quad) {
            hits.quad[hit] = pixel;
            hits.texel[hit] = texel;
            quad.invert(x, &hits.st[2 * hit], &hits.st[2 * hit + 1]);
            if (by_texel)
                by_texel[texel_end[texel] - of_texel[texel] + ntdm::atomic_add(taken + texel, 1)] = hit;
            ++hit;
        });
    }
};

// Sorts a texel's list: a heap, in place, for lists of any length.
struct Sort {
    const int32_t* of_texel;
    const int64_t* texel_end;
    int64_t* by_texel;

    NTDM_BODY static void sink(int64_t* heap, int32_t at, int32_t count) {
        for (int32_t child = 2 * at + 1; child < count; at = child, child = 2 * at + 1) {
            if (child + 1 < count && heap[child] < heap[child + 1]) ++child;
            if (heap[at] >= heap[child]) return;
            swap(heap + at, heap + child);
        }
    }
    NTDM_BODY static void swap(int64_t* a, int64_t* b) {
        const int64_t kept = *a;
        *a = *b, *b = kept;
    }
    NTDM_BODY void operator()(int64_t texel) const {
        const int32_t count = of_texel[texel];
        int64_t* list = by_texel + texel_end[texel] - count;
        for (int32_t i = count / 2 - 1; i >= 0; --i) sink(list, i, count);
        for (int32_t last = count - 1; last > 0; --last) {
            swap(list, list + last);
            sink(list, 0, last);
        }
    }
};

// A team a texel, a lane a channel.
template <typename S>
struct Average {
    typedef typename Computed<S>::type T;
    const S* features;
    int64_t w, d;
    const int32_t* of_texel;
    const int64_t *texel_end, *by_texel;
    Hits hits;
    S* mean;
    T* weight;

    NTDM_BODY void operator()(int64_t texel, Team<32> team) const {
        const int32_t count = of_texel[texel];
        const int64_t* list = by_texel + texel_end[texel] - count;
        const T share = count ? T(1) / count : T(0);
        if (team.lane == 0) weight[texel] = T(count);
        for (int64_t c = team.lane; c < d; c += team.size) {
            T sum = 0;
            for (int32_t i = 0; i < count; ++i) {
                const int64_t hit = list[i];
                const T s = T(hits.st[2 * hit]), t = T(hits.st[2 * hit + 1]);
                const S* above = features + hits.quad[hit] * d + c;
                const S* below = above + w * d;
                sum += (1 - s) * (1 - t) * share * ntdm::read(above[0]) +
                       s * (1 - t) * share * ntdm::read(above[d]) +
                       (1 - s) * t * share * ntdm::read(below[0]) + s * t * share * ntdm::read(below[d]);
            }
            ntdm::write(mean + texel * d + c, sum);
        }
    }
};

// A team a pixel goes through the hits of the four quads around it, in raster order (Eq. 12).
template <typename S>
struct FeatureGradient {
    typedef typename Computed<S>::type T;
    const S* mean_grad;
    int64_t h, w, d;
    const int32_t *of_quad, *of_texel;
    const int64_t* quad_end;
    Hits hits;
    S* feature_grad;

    NTDM_BODY void operator()(int64_t pixel, Team<32> team) const {
        const int64_t row = pixel / w % h, column = pixel % w;
        for (int64_t c = team.lane; c < d; c += team.size) {
            T sum = 0;
            for (int k = 3; k >= 0; --k) {  // the pixel is the quad's corner k
                if (row < k / 2 || column < k % 2) continue;
                const int64_t quad = pixel - k / 2 * w - k % 2, end = quad_end[quad];
                for (int64_t hit = end - of_quad[quad]; hit < end; ++hit) {
                    const double share = 1.0 / of_texel[hits.texel[hit]];
                    const double weight = ntdm::bilinear_weight(k, hits.st[2 * hit], hits.st[2 * hit + 1]);
                    sum += T(weight * share) * ntdm::read(mean_grad[hits.texel[hit] * d + c]);
                }
            }
            ntdm::write(feature_grad + pixel * d + c, sum);
        }
    }
};

// A team a quad: the gradient to its four corners, summed over its hits.
template <typename S>
struct CornerGradient {
    typedef typename Computed<S>::type T;
    const S *mean_grad, *features;
    const T* uv;
    int64_t w, d;
    const int32_t *of_quad, *of_texel;
    const int64_t* quad_end;
    Hits hits;
    double* corner_grad;  // [quads, 4, 2]; of quads that own nothing, not written

    NTDM_BODY void operator()(int64_t quad, Team<32> team) const {
        const int64_t end = quad_end[quad];
        double sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (int64_t hit = end - of_quad[quad]; hit < end; ++hit) {
            const double s = hits.st[2 * hit], t = hits.st[2 * hit + 1];
            const double share = 1.0 / of_texel[hits.texel[hit]];
            const S *grad = mean_grad + hits.texel[hit] * d, *above = features + quad * d;
            const S* below = above + w * d;
            // a = dL/d(s, t): the upstream gradient contracted with dF/ds, dF/dt over channels.
            T dot[4] = {0, 0, 0, 0};
            for (int64_t c = team.lane; c < d; c += team.size) {
                const T g = ntdm::read(grad[c]);
                dot[0] += g * ntdm::read(above[c]);
                dot[1] += g * ntdm::read(above[d + c]);
                dot[2] += g * ntdm::read(below[c]);
                dot[3] += g * ntdm::read(below[d + c]);
            }
            for (T& value : dot) value = team.sum(value);
            const double a_s = share * ((1 - t) * (double(dot[1]) - dot[0]) + t * (double(dot[3]) - dot[2]));
            const double a_t = share * ((1 - s) * (double(dot[2]) - dot[0]) + s * (double(dot[3]) - dot[1]));
            const Point to = ntdm::gradient_to_corners(uv, quad, w, s, t, a_s, a_t);
            for (int k = 0; k < 4; ++k) {
                const double weight = ntdm::bilinear_weight(k, s, t);
                sums[2 * k] += weight * to.u;
                sums[2 * k + 1] += weight * to.v;
            }
        }
        if (team.lane == 0 && of_quad[quad] > 0)
            for (int i = 0; i < 8; ++i) corner_grad[8 * quad + i] = sums[i];
    }
};

template <typename T>
struct UvGradient {
    int64_t h, w;
    const int32_t* of_quad;
    const double* corner_grad;
    T* uv_grad;

    NTDM_BODY void operator()(int64_t pixel) const {
        const int64_t row = pixel / w % h, column = pixel % w;
        double u = 0, v = 0;
        for (int k = 3; k >= 0; --k) {
            if (row < k / 2 || column < k % 2) continue;
            const int64_t quad = pixel - k / 2 * w - k % 2;
            if (!of_quad[quad]) continue;
            u += corner_grad[8 * quad + 2 * k];
            v += corner_grad[8 * quad + 2 * k + 1];
        }
        uv_grad[2 * pixel] = T(u);
        uv_grad[2 * pixel + 1] = T(v);
    }
};

}  // namespace

// Geometry, by the type of uv; average and gradients, by that of the stored features.
#define NTDM_UV_SCATTER_GEOMETRY(SUFFIX, T)                                                              \
    extern "C" int ntdm_cuda_uv_scatter_count_##SUFFIX(                                                  \
        const T* uv, const uint8_t* coverage, int64_t batch, int64_t h, int64_t w, int64_t q,            \
        double max_extent, int32_t* of_quad, int32_t* of_texel, int64_t* bad, Stream stream) {           \
        const Map map = {h, w, 0, q, max_extent};                                                        \
        ntdm::each(batch * map.pixels(), stream, Count<T>{{uv, coverage, map}, of_quad, of_texel, bad}); \
        return ntdm::launch_error();                                                                     \
    }                                                                                                    \
    extern "C" int ntdm_cuda_uv_scatter_list_##SUFFIX(                                                   \
        const T* uv, const uint8_t* coverage, int64_t batch, int64_t h, int64_t w, int64_t q,            \
        double max_extent, const int32_t* of_quad, const int32_t* of_texel, const int64_t* quad_end,     \
        const int64_t* texel_end, int64_t* quad, int64_t* texel, double* st, int32_t* taken,             \
        int64_t* by_texel, Stream stream) {                                                              \
        const Map map = {h, w, 0, q, max_extent};                                                        \
        ntdm::each(batch * map.pixels(), stream,                                                         \
                   List<T>{{uv, coverage, map},                                                          \
                           of_quad,                                                                      \
                           of_texel,                                                                     \
                           quad_end,                                                                     \
                           texel_end,                                                                    \
                           {quad, texel, st},                                                            \
                           taken,                                                                        \
                           by_texel});                                                                   \
        if (by_texel) ntdm::each(batch * map.texels(), stream, Sort{of_texel, texel_end, by_texel});     \
        return ntdm::launch_error();                                                                     \
    }

#define NTDM_UV_SCATTER(SUFFIX, S, T)                                                                        \
    extern "C" int ntdm_cuda_uv_scatter_average_##SUFFIX(                                                    \
        const S* features, int64_t texels, int64_t w, int64_t d, const int32_t* of_texel,                    \
        const int64_t* texel_end, const int64_t* by_texel, int64_t* quad, int64_t* texel, double* st,        \
        S* mean, T* weight, Stream stream) {                                                                 \
        ntdm::each_team<32>(                                                                                 \
            texels, stream,                                                                                  \
            Average<S>{features, w, d, of_texel, texel_end, by_texel, {quad, texel, st}, mean, weight});     \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    extern "C" int ntdm_cuda_uv_scatter_feature_gradient_##SUFFIX(                                           \
        const S* mean_grad, int64_t pixels, int64_t h, int64_t w, int64_t d, const int32_t* of_quad,         \
        const int32_t* of_texel, const int64_t* quad_end, int64_t* quad, int64_t* texel, double* st,         \
        S* feature_grad, Stream stream) {                                                                    \
        ntdm::each_team<32>(                                                                                 \
            pixels, stream,                                                                                  \
            FeatureGradient<S>{                                                                              \
                mean_grad, h, w, d, of_quad, of_texel, quad_end, {quad, texel, st}, feature_grad});          \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    extern "C" int ntdm_cuda_uv_scatter_uv_gradient_##SUFFIX(                                                \
        const S* mean_grad, const S* features, const T* uv, int64_t pixels, int64_t h, int64_t w, int64_t d, \
        const int32_t* of_quad, const int32_t* of_texel, const int64_t* quad_end, int64_t* quad,             \
        int64_t* texel, double* st, double* corner_grad, T* uv_grad, Stream stream) {                        \
        ntdm::each_team<32>(pixels, stream,                                                                  \
                            CornerGradient<S>{mean_grad,                                                     \
                                              features,                                                      \
                                              uv,                                                            \
                                              w,                                                             \
                                              d,                                                             \
                                              of_quad,                                                       \
                                              of_texel,                                                      \
                                              quad_end,                                                      \
                                              {quad, texel, st},                                             \
                                              corner_grad});                                                 \
        ntdm::each(pixels, stream, UvGradient<T>{h, w, of_quad, corner_grad, uv_grad});                      \
        return ntdm::launch_error();                                                                         \
    }

NTDM_UV_SCATTER_GEOMETRY(f32, float)
NTDM_UV_SCATTER_GEOMETRY(f64, double)
NTDM_UV_SCATTER(f32, float, float)
NTDM_UV_SCATTER(f64, double, double)
NTDM_UV_SCATTER(bf16, ntdm::BFloat, float)
NTDM_UV_SCATTER(f16, ntdm::Half, float)
