// The momentum update of a neural texture on CUDA, in place, as texture_update.cpp. A team takes a texel's
// bin, a lane every 32nd channel; the texels are distinct, so teams never meet.

#include <cmath>
#include <cstdint>

#include "launch.h"

namespace {

using ntdm::Stream;
using ntdm::Team;

template <typename T>
struct Update {
    T *theta, *seen;
    const int64_t* texels;
    const T *features, *alpha;
    int64_t bins, d;
    T rate, first_visit;

    NTDM_BODY void operator()(int64_t i, Team<32> team) const {
        const int64_t n = i / bins, place = texels[n] * bins + i % bins;
        const T *feature = features + n * d, weight = alpha[i];
        T* own = theta + place * d;
        // All lanes read the mark before one of them sets it: the ballot stands between.
        const bool fresh = seen[place] == 0;
        if (team.ballot(fresh)) {
            if (!(weight > first_visit)) return;
            for (int64_t c = team.lane; c < d; c += team.size) own[c] = feature[c];
            if (team.lane == 0) seen[place] = 1;
            return;
        }
        const T step = rate * weight;
        T square = 0;
        for (int64_t c = team.lane; c < d; c += team.size) {
            own[c] += step * (feature[c] - own[c]);
            square += own[c] * own[c];
        }
        square = team.sum(square);
        const T scale = square > 0 ? 1 / std::sqrt(square) : T(0);
        for (int64_t c = team.lane; c < d; c += team.size) own[c] *= scale;
    }
};

}  // namespace

#define NTDM_TEXTURE_UPDATE(SUFFIX, T)                                                              \
    extern "C" int ntdm_cuda_texture_update_##SUFFIX(                                               \
        T* theta, T* seen, const int64_t* texels, const T* features, const T* alpha, int64_t count, \
        int64_t bins, int64_t d, double rate, double first_visit, Stream stream) {                  \
        ntdm::each_team<32>(                                                                        \
            count * bins, stream,                                                                   \
            Update<T>{theta, seen, texels, features, alpha, bins, d, T(rate), T(first_visit)});     \
        return ntdm::launch_error();                                                                \
    }

NTDM_TEXTURE_UPDATE(f32, float)
NTDM_TEXTURE_UPDATE(f64, double)
