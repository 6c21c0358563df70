// Bilinear look-up of view-binned neural textures, fused with the blend over bins, the normalisation, the
// product with a target feature, and the derivatives of that product. Plain C interface;
// ntdm/ops/texture_lookup.py states shapes and equations and holds the torch twin.
//
// Points are independent, so any number of threads gives the same bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bilinear.h"
#include "lanes.h"

namespace {

using ntdm::Corners;
using ntdm::load;
using ntdm::store;

// 32 bytes of channels: one AVX register; compilers without AVX split it in two.
template <typename T>
struct Register {
    typedef T type __attribute__((vector_size(32)));
    static constexpr int64_t count = 32 / sizeof(T);
};

// out[0:d] = sum_n coefficient[n] * rows[n][0:d]. Four registers of the sum stay live over all rows.
template <typename T>
void weighted_sum(const T* const* rows, const T* coefficient, int64_t num_rows, int64_t d, T* out) {
    using V = typename Register<T>::type;
    constexpr int64_t lanes = Register<T>::count;
    int64_t at = 0;
    for (; at + 4 * lanes <= d; at += 4 * lanes) {
        V sum0 = {}, sum1 = {}, sum2 = {}, sum3 = {};
        for (int64_t n = 0; n < num_rows; ++n) {
            const T* row = rows[n] + at;
            const T c = coefficient[n];
            sum0 += c * load<V>(row);
            sum1 += c * load<V>(row + lanes);
            sum2 += c * load<V>(row + 2 * lanes);
            sum3 += c * load<V>(row + 3 * lanes);
        }
        store(out + at, sum0);
        store(out + at + lanes, sum1);
        store(out + at + 2 * lanes, sum2);
        store(out + at + 3 * lanes, sum3);
    }
    for (; at < d; ++at) {
        T sum = 0;
        for (int64_t n = 0; n < num_rows; ++n) sum += coefficient[n] * rows[n][at];
        out[at] = sum;
    }
}

template <typename T>
T dot(const T* a, const T* b, int64_t d) {
    using V = typename Register<T>::type;
    constexpr int64_t lanes = Register<T>::count;
    V sum0 = {}, sum1 = {};
    int64_t at = 0;
    for (; at + 2 * lanes <= d; at += 2 * lanes) {
        sum0 += load<V>(a + at) * load<V>(b + at);
        sum1 += load<V>(a + at + lanes) * load<V>(b + at + lanes);
    }
    sum0 += sum1;
    T sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += sum0[lane];
    for (; at < d; ++at) sum += a[at] * b[at];
    return sum;
}

template <typename T>
struct Problem {
    const T *texture, *seen;    // [M, q, q, b, d], [M, q, q, b]
    const int64_t* map_index;   // [P]
    const T *uv, *alpha;        // [P, 2], [P, b]
    const T* target;            // [N, d], or null
    const int64_t* target_row;  // [P] rows of target, or null: row p
    int64_t num_points, num_maps, num_targets, q, b, d;
    T smallest_norm;
    T *feature, *cosine, *evidence, *jacobian;  // [P, d], [P], [P], [P, 2, 2 + b]; null: not wanted
};

template <typename T>
bool valid(const Problem<T>& in, int64_t p) {
    const bool target_ok = !in.target_row || (in.target_row[p] >= 0 && in.target_row[p] < in.num_targets);
    return in.map_index[p] >= 0 && in.map_index[p] < in.num_maps && std::isfinite(in.uv[2 * p]) &&
           std::isfinite(in.uv[2 * p + 1]) && target_ok;
}

template <typename T>
struct Scratch {
    std::vector<const T*> rows;
    std::vector<T> coefficient, blend, direction;
    std::vector<int> corner, bin;
    Scratch(int64_t b, int64_t d)
        : rows(4 * b), coefficient(4 * b), blend(d), direction(d), corner(4 * b), bin(4 * b) {}
};

template <typename T>
void look_up(const Problem<T>& in, int64_t p, Scratch<T>& scratch) {
    const int64_t b = in.b, d = in.d;
    const Corners<T> corners(in.uv[2 * p], in.uv[2 * p + 1], in.q);
    const T* alpha = in.alpha + p * b;
    const int64_t first_texel = in.map_index[p] * in.q * in.q;

    int64_t live = 0;  // rows of the texture that carry evidence
    T evidence = 0;
    for (int c = 0; c < 4; ++c) {
        const int64_t texel = first_texel + corners.texel[c];
        for (int bin = 0; bin < b; ++bin) {
            const T seen = in.seen[texel * b + bin];
            if (seen == 0) continue;
            scratch.rows[live] = in.texture + (texel * b + bin) * d;
            scratch.coefficient[live] = corners.weight[c] * alpha[bin] * seen;
            scratch.corner[live] = c;
            scratch.bin[live] = bin;
            evidence += scratch.coefficient[live];
            ++live;
        }
    }
    in.evidence[p] = evidence;

    T* blend = scratch.blend.data();
    weighted_sum(scratch.rows.data(), scratch.coefficient.data(), live, d, blend);
    const T norm = std::sqrt(dot(blend, blend, d));
    const bool nothing = !(norm >= in.smallest_norm);
    const T scale = nothing ? T(0) : 1 / norm;
    if (in.feature)
        for (int64_t i = 0; i < d; ++i) in.feature[p * d + i] = scale * blend[i];
    if (!in.target) return;

    const T* target = in.target + (in.target_row ? in.target_row[p] : p) * d;
    const T cosine = scale * dot(blend, target, d);
    if (in.cosine) in.cosine[p] = cosine;
    if (!in.jacobian) return;

    // d cosine / d g = (target - cosine g/|g|) / |g|; every derivative below is a product of it with a
    // texture row.
    T* direction = scratch.direction.data();
    for (int64_t i = 0; i < d; ++i) direction[i] = scale * (target[i] - cosine * scale * blend[i]);
    T* of_cosine = in.jacobian + p * 2 * (2 + b);
    T* of_evidence = of_cosine + 2 + b;
    std::fill(of_cosine, of_cosine + 2 * (2 + b), T(0));
    for (int64_t n = 0; n < live; ++n) {
        const int c = scratch.corner[n], bin = scratch.bin[n];
        const T seen = in.seen[(first_texel + corners.texel[c]) * b + bin];
        const T along = nothing ? T(0) : seen * dot(scratch.rows[n], direction, d);
        of_cosine[0] += corners.weight_du[c] * alpha[bin] * along;
        of_cosine[1] += corners.weight_dv[c] * alpha[bin] * along;
        of_cosine[2 + bin] += corners.weight[c] * along;
        of_evidence[0] += corners.weight_du[c] * alpha[bin] * seen;
        of_evidence[1] += corners.weight_dv[c] * alpha[bin] * seen;
        of_evidence[2 + bin] += corners.weight[c] * seen;
    }
}

template <typename T>
void run(const Problem<T>& in, int64_t* first_bad, int threads) {
    int64_t bad = in.num_points;
#pragma omp parallel num_threads(threads) if (in.num_points > 256)
    {
        Scratch<T> scratch(in.b, in.d);
#pragma omp for schedule(static) reduction(min : bad)
        for (int64_t p = 0; p < in.num_points; ++p) {
            if (valid(in, p))
                look_up(in, p, scratch);
            else if (p < bad)
                bad = p;
        }
    }
    *first_bad = bad;
}

}  // namespace

// first_bad: the first point whose uv is not finite or whose map or target index is out of range; num_points
// where none is.
#define NTDM_TEXTURE_LOOKUP(T, SUFFIX)                                                                      \
    extern "C" int ntdm_texture_lookup_##SUFFIX(                                                            \
        const T* texture, const T* seen, const int64_t* map_index, const T* uv, const T* alpha,             \
        const T* target, const int64_t* target_row, int64_t num_points, int64_t num_maps,                   \
        int64_t num_targets, int64_t q, int64_t b, int64_t d, double smallest_norm, T* feature, T* cosine,  \
        T* evidence, T* jacobian, int64_t* first_bad, int threads) {                                        \
        run<T>({texture, seen, map_index, uv, alpha, target, target_row, num_points, num_maps, num_targets, \
                q, b, d, static_cast<T>(smallest_norm), feature, cosine, evidence, jacobian},               \
               first_bad, threads);                                                                         \
        return 0;                                                                                           \
    }

NTDM_TEXTURE_LOOKUP(float, f32)
NTDM_TEXTURE_LOOKUP(double, f64)
