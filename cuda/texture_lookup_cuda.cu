// Look-up of neural textures on CUDA, as texture_lookup.cpp. A team takes a point, a lane every 32nd channel.
// Python face: ntdm/ops/texture_lookup.py.

#include <cmath>
#include <cstdint>

#include "bilinear.h"
#include "launch.h"

namespace {

using ntdm::Corners;
using ntdm::Stream;
using ntdm::Team;

template <typename T>
struct LookUp {
    const T *texture, *seen;    // [M, q, q, b, d], [M, q, q, b]
    const int64_t* map_index;   // [P]
    const T *uv, *alpha;        // [P, 2], [P, b]
    const T* target;            // [N, d], or null
    const int64_t* target_row;  // [P] rows of target, or null: row p
    int64_t num_maps, num_targets, q, b, d;
    T smallest_norm;
    T *feature, *cosine, *evidence, *jacobian;  // [P, d], [P], [P], [P, 2, 2 + b]; null: not wanted
    int64_t* bad;                               // the first point that is not valid

    NTDM_BODY bool valid(int64_t p) const {
        const bool target_ok = !target_row || (target_row[p] >= 0 && target_row[p] < num_targets);
        return map_index[p] >= 0 && map_index[p] < num_maps && std::isfinite(uv[2 * p]) &&
               std::isfinite(uv[2 * p + 1]) && target_ok;
    }

    // Calls visit(corner, bin, place, seen) for the rows of the texture that carry evidence.
    template <typename Visit>
    NTDM_BODY void each_row(int64_t p, const Corners<T>& corners, Visit visit) const {
        for (int c = 0; c < 4; ++c) {
            const int64_t first = (map_index[p] * q * q + corners.texel[c]) * b;
            for (int64_t bin = 0; bin < b; ++bin)
                if (seen[first + bin] != 0) visit(c, bin, first + bin, seen[first + bin]);
        }
    }

    NTDM_BODY void operator()(int64_t p, Team<32> team) const {
        if (!valid(p)) {
            if (team.lane == 0) ntdm::atomic_min(bad, p);
            return;
        }
        const Corners<T> corners(uv[2 * p], uv[2 * p + 1], q);
        const T* weight_of = alpha + p * b;
        const T* goal = target ? target + (target_row ? target_row[p] : p) * d : nullptr;

        // The blend, of which each lane keeps its own channels.
        T* blend = reinterpret_cast<T*>(team.scratch);
        T square = 0, product = 0, share = 0;
        for (int64_t c = team.lane; c < d; c += team.size) {
            T sum = 0;
            each_row(p, corners, [&](int corner, int64_t bin, int64_t place, T mark) {
                sum += corners.weight[corner] * weight_of[bin] * mark * texture[place * d + c];
            });
            blend[c] = sum;
            square += sum * sum;
            if (goal) product += sum * goal[c];
        }
        each_row(p, corners, [&](int corner, int64_t bin, int64_t, T mark) {
            share += corners.weight[corner] * weight_of[bin] * mark;
        });
        const T norm = std::sqrt(team.sum(square));
        const bool nothing = !(norm >= smallest_norm);
        const T scale = nothing ? T(0) : 1 / norm;
        if (team.lane == 0) evidence[p] = share;
        if (feature)
            for (int64_t c = team.lane; c < d; c += team.size) feature[p * d + c] = scale * blend[c];
        if (!goal) return;
        const T similarity = scale * team.sum(product);
        if (team.lane == 0 && cosine) cosine[p] = similarity;
        if (!jacobian) return;

        // d cosine / d g = (target - cosine g/|g|) / |g|; every derivative below is a product of it with a
        // texture row.
        for (int64_t c = team.lane; c < d; c += team.size)
            blend[c] = scale * (goal[c] - similarity * scale * blend[c]);
        T* of_cosine = jacobian + p * 2 * (2 + b);
        T* of_evidence = of_cosine + 2 + b;
        if (team.lane == 0)
            for (int64_t i = 0; i < 2 * (2 + b); ++i) of_cosine[i] = 0;
        T cosine_du = 0, cosine_dv = 0, evidence_du = 0, evidence_dv = 0;
        each_row(p, corners, [&](int corner, int64_t bin, int64_t place, T mark) {
            T along = 0;
            for (int64_t c = team.lane; c < d; c += team.size) along += texture[place * d + c] * blend[c];
            along = nothing ? T(0) : mark * team.sum(along);
            cosine_du += corners.weight_du[corner] * weight_of[bin] * along;
            cosine_dv += corners.weight_dv[corner] * weight_of[bin] * along;
            evidence_du += corners.weight_du[corner] * weight_of[bin] * mark;
            evidence_dv += corners.weight_dv[corner] * weight_of[bin] * mark;
            if (team.lane != 0) return;
            of_cosine[2 + bin] += corners.weight[corner] * along;
            of_evidence[2 + bin] += corners.weight[corner] * mark;
        });
        if (team.lane != 0) return;
        of_cosine[0] = cosine_du, of_cosine[1] = cosine_dv;
        of_evidence[0] = evidence_du, of_evidence[1] = evidence_dv;
    }
};

}  // namespace

#define NTDM_TEXTURE_LOOKUP(SUFFIX, T)                                                                     \
    extern "C" int ntdm_cuda_texture_lookup_##SUFFIX(                                                      \
        const T* texture, const T* seen, const int64_t* map_index, const T* uv, const T* alpha,            \
        const T* target, const int64_t* target_row, int64_t num_points, int64_t num_maps,                  \
        int64_t num_targets, int64_t q, int64_t b, int64_t d, double smallest_norm, T* feature, T* cosine, \
        T* evidence, T* jacobian, int64_t* bad, Stream stream) {                                           \
        const LookUp<T> body = {texture,          seen,     map_index,   uv,       alpha,    target,       \
                                target_row,       num_maps, num_targets, q,        b,        d,            \
                                T(smallest_norm), feature,  cosine,      evidence, jacobian, bad};         \
        ntdm::each_team<32>(num_points, stream, body, d * int64_t(sizeof(T)));                             \
        return ntdm::launch_error();                                                                       \
    }

NTDM_TEXTURE_LOOKUP(f32, float)
NTDM_TEXTURE_LOOKUP(f64, double)
