// UV scatter on CUDA: the same sums as uv_scatter.cpp, gathered. ntdm/ops/uv_scatter_cuda.py allocates and
// calls:
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
using ntdm::Texel;

// uv and coverage of all images; `pixel` counts through them, and so do quads, by their first pixel.
template <typename T>
struct Quads {
    const T* uv;
    const uint8_t* coverage;
    int64_t h, w, q;
    double max_extent;

    // Tests as many texels at once as the team has lanes, in raster order, and calls visit(inside, texel,
    // quad, bits): whether the quad owns this lane's, and of which lanes it does. texel counts through the
    // images.
    template <typename Visit>
    NTDM_BODY void each_texel(int64_t pixel, Team<8> team, Visit visit) const {
        const int64_t row = pixel / w % h, column = pixel % w, first_texel = pixel / (h * w) * q * q;
        if (row + 1 >= h || column + 1 >= w) return;
        Quad quad;
        if (!quad.read(uv, coverage, w, pixel, max_extent)) return;
        const Quad::Range range = quad.range(q);
        const int64_t count = range.rows * range.columns;
        for (int64_t first = 0; first < count; first += team.size) {
            const int64_t n = first + team.lane;
            Texel texel(range.top + n / range.columns, range.left + n % range.columns, q);
            const bool inside = n < count && quad.contains(texel.centre);
            texel.number += first_texel;
            visit(inside, texel, quad, team.ballot(inside));
        }
    }
};

// A team a quad.
template <typename T>
struct Count {
    Quads<T> quads;
    int32_t *of_quad, *of_texel;
    int64_t* bad;  // the first image with a covered uv that is not finite

    NTDM_BODY void operator()(int64_t pixel, Team<8> team) const {
        const T u = quads.uv[2 * pixel], v = quads.uv[2 * pixel + 1];
        if (quads.coverage[pixel] && !(std::isfinite(u) && std::isfinite(v)))
            ntdm::atomic_min(bad, pixel / (quads.h * quads.w));
        int32_t count = 0;
        quads.each_texel(pixel, team, [&](bool inside, const Texel& texel, const Quad&, uint32_t bits) {
            count += ntdm::count_bits(bits);
            if (inside) ntdm::atomic_add(of_texel + texel.number, 1);
        });
        if (team.lane == 0) of_quad[pixel] = count;
    }
};

template <typename T>
struct Hits {
    int64_t *quad, *texel;  // pixel of the quad's first corner; both count through the images
    double* st;             // the texel's centre, along the quad's row and column
    T* weight;              // of the four corners in the texel's mean
};

// A team a quad.
template <typename T>
struct List {
    Quads<T> quads;
    const int32_t *of_quad, *of_texel;
    const int64_t *quad_end, *texel_end;  // running sums of the counts
    Hits<T> hits;
    int32_t* taken;     // slots of each texel's list that are filled
    int64_t* by_texel;  // hits of texel after texel, or null: not wanted

    NTDM_BODY void operator()(int64_t pixel, Team<8> team) const {
        int64_t next = quad_end[pixel] - of_quad[pixel];
        quads.each_texel(pixel, team, [&](bool inside, const Texel& texel, const Quad& quad, uint32_t bits) {
            const int64_t hit = next + ntdm::count_bits(bits & ((1u << team.lane) - 1));
            next += ntdm::count_bits(bits);
            if (!inside) return;
            double s, t;
            quad.invert(texel.centre, &s, &t);
            const int32_t count = of_texel[texel.number];
            hits.quad[hit] = pixel;
            hits.texel[hit] = texel.number;
            hits.st[2 * hit] = s;
            hits.st[2 * hit + 1] = t;
            for (int k = 0; k < 4; ++k)
                hits.weight[4 * hit + k] = T(ntdm::bilinear_weight(k, s, t) * (1.0 / count));
            if (by_texel)
                by_texel[texel_end[texel.number] - count + ntdm::atomic_add(taken + texel.number, 1)] = hit;
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
    Hits<T> hits;
    S* mean;
    T* weight;

    NTDM_BODY void operator()(int64_t texel, Team<32> team) const {
        const int32_t count = of_texel[texel];
        const int64_t* list = by_texel + texel_end[texel] - count;
        if (team.lane == 0) weight[texel] = T(count);
        for (int64_t c = team.lane; c < d; c += team.size) {
            T sum = 0;
            for (int32_t i = 0; i < count; ++i) {
                const T* share = hits.weight + 4 * list[i];
                const S* above = features + hits.quad[list[i]] * d + c;
                const S* below = above + w * d;
                sum += share[0] * ntdm::read(above[0]) + share[1] * ntdm::read(above[d]) +
                       share[2] * ntdm::read(below[0]) + share[3] * ntdm::read(below[d]);
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
    const int32_t* of_quad;
    const int64_t* quad_end;
    Hits<T> hits;
    S* feature_grad;

    NTDM_BODY void operator()(int64_t pixel, Team<32> team) const {
        const int64_t row = pixel / w % h, column = pixel % w;
        for (int64_t c = team.lane; c < d; c += team.size) {
            T sum = 0;
            for (int k = 3; k >= 0; --k) {  // the pixel is the quad's corner k
                if (row < k / 2 || column < k % 2) continue;
                const int64_t quad = pixel - k / 2 * w - k % 2, end = quad_end[quad];
                for (int64_t hit = end - of_quad[quad]; hit < end; ++hit)
                    sum += hits.weight[4 * hit + k] * ntdm::read(mean_grad[hits.texel[hit] * d + c]);
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
    Hits<T> hits;
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
#define NTDM_UV_SCATTER_GEOMETRY(SUFFIX, T)                                                                \
    extern "C" int ntdm_cuda_uv_scatter_count_##SUFFIX(                                                    \
        const T* uv, const uint8_t* coverage, int64_t batch, int64_t h, int64_t w, int64_t q,              \
        double max_extent, int32_t* of_quad, int32_t* of_texel, int64_t* bad, Stream stream) {             \
        const Count<T> body = {{uv, coverage, h, w, q, max_extent}, of_quad, of_texel, bad};               \
        ntdm::each_team<8>(batch * h * w, stream, body);                                                   \
        return ntdm::launch_error();                                                                       \
    }                                                                                                      \
    extern "C" int ntdm_cuda_uv_scatter_list_##SUFFIX(                                                     \
        const T* uv, const uint8_t* coverage, int64_t batch, int64_t h, int64_t w, int64_t q,              \
        double max_extent, const int32_t* of_quad, const int32_t* of_texel, const int64_t* quad_end,       \
        const int64_t* texel_end, int64_t* quad, int64_t* texel, double* st, T* weight, int32_t* taken,    \
        int64_t* by_texel, Stream stream) {                                                                \
        const List<T> body = {{uv, coverage, h, w, q, max_extent}, of_quad, of_texel, quad_end, texel_end, \
                              {quad, texel, st, weight},           taken,   by_texel};                     \
        ntdm::each_team<8>(batch * h * w, stream, body);                                                   \
        if (by_texel) ntdm::each(batch * q * q, stream, Sort{of_texel, texel_end, by_texel});              \
        return ntdm::launch_error();                                                                       \
    }

#define NTDM_UV_SCATTER(SUFFIX, S, T)                                                                        \
    extern "C" int ntdm_cuda_uv_scatter_average_##SUFFIX(                                                    \
        const S* features, int64_t texels, int64_t w, int64_t d, const int32_t* of_texel,                    \
        const int64_t* texel_end, const int64_t* by_texel, int64_t* quad, T* share, S* mean, T* weight,      \
        Stream stream) {                                                                                     \
        const Average<S> body = {                                                                            \
            features, w, d, of_texel, texel_end, by_texel, {quad, nullptr, nullptr, share}, mean, weight};   \
        ntdm::each_team<32>(texels, stream, body);                                                           \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    extern "C" int ntdm_cuda_uv_scatter_feature_gradient_##SUFFIX(                                           \
        const S* mean_grad, int64_t pixels, int64_t h, int64_t w, int64_t d, const int32_t* of_quad,         \
        const int64_t* quad_end, int64_t* texel, T* share, S* feature_grad, Stream stream) {                 \
        const FeatureGradient<S> body = {                                                                    \
            mean_grad, h, w, d, of_quad, quad_end, {nullptr, texel, nullptr, share}, feature_grad};          \
        ntdm::each_team<32>(pixels, stream, body);                                                           \
        return ntdm::launch_error();                                                                         \
    }                                                                                                        \
    extern "C" int ntdm_cuda_uv_scatter_uv_gradient_##SUFFIX(                                                \
        const S* mean_grad, const S* features, const T* uv, int64_t pixels, int64_t h, int64_t w, int64_t d, \
        const int32_t* of_quad, const int32_t* of_texel, const int64_t* quad_end, int64_t* texel,            \
        double* st, double* corner_grad, T* uv_grad, Stream stream) {                                        \
        const CornerGradient<S> body = {                                                                     \
            mean_grad,  features, uv, w, d, of_quad, of_texel, quad_end, {nullptr, texel, st, nullptr},      \
            corner_grad};                                                                                    \
        ntdm::each_team<32>(pixels, stream, body);                                                           \
        ntdm::each(pixels, stream, UvGradient<T>{h, w, of_quad, corner_grad, uv_grad});                      \
        return ntdm::launch_error();                                                                         \
    }

NTDM_UV_SCATTER_GEOMETRY(f32, float)
NTDM_UV_SCATTER_GEOMETRY(f64, double)
NTDM_UV_SCATTER(f32, float, float)
NTDM_UV_SCATTER(f64, double, double)
NTDM_UV_SCATTER(bf16, ntdm::BFloat, float)
NTDM_UV_SCATTER(f16, ntdm::Half, float)
