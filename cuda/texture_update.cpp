// The momentum update of a neural texture at its visible texels, in place. Plain C interface;
// ntdm/ops/texture_update.py states shapes and the rule, and holds the torch twin.
//
// The texels are distinct, so threads never meet and any number of them gives the same bits.

#include <cmath>
#include <cstdint>

namespace {

template <typename T>
void update(T* theta, T* seen, const int64_t* texels, const T* features, const T* alpha, int64_t count,
            int64_t bins, int64_t d, double rate, double first_visit, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < count; ++n) {
        const T* feature = features + n * d;
        for (int64_t b = 0; b < bins; ++b) {
            const int64_t place = texels[n] * bins + b;
            const T weight = alpha[n * bins + b];
            T* own = theta + place * d;
            if (seen[place] == 0) {
                if (weight > static_cast<T>(first_visit)) {
                    for (int64_t c = 0; c < d; ++c) own[c] = feature[c];
                    seen[place] = 1;
                }
                continue;
            }
            const T step = static_cast<T>(rate) * weight;
            T square = 0;
#pragma omp simd reduction(+ : square)
            for (int64_t c = 0; c < d; ++c) {
                own[c] += step * (feature[c] - own[c]);
                square += own[c] * own[c];
            }
            const T scale = square > 0 ? 1 / std::sqrt(square) : 0;
            for (int64_t c = 0; c < d; ++c) own[c] *= scale;
        }
    }
}

}  // namespace

#define NTDM_TEXTURE_UPDATE(T, SUFFIX)                                                                       \
    extern "C" int ntdm_texture_update_##SUFFIX(T* theta, T* seen, const int64_t* texels, const T* features, \
                                                const T* alpha, int64_t count, int64_t bins, int64_t d,      \
                                                double rate, double first_visit, int threads) {              \
        update(theta, seen, texels, features, alpha, count, bins, d, rate, first_visit, threads);            \
        return 0;                                                                                            \
    }

NTDM_TEXTURE_UPDATE(float, f32)
NTDM_TEXTURE_UPDATE(double, f64)
