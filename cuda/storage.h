// Numbers as they are stored and as they are computed with: bfloat16 and half are read into float and rounded
// (to nearest, ties to even) when written. Sums are never made in them.

#pragma once

#include <cstdint>
#include <cstring>

#include "device.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace ntdm {

struct BFloat {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

// The type in which a stored one is computed.
template <typename S>
struct Computed {
    typedef float type;
};
template <>
struct Computed<double> {
    typedef double type;
};

NTDM_DEVICE inline float read(float value) {
    return value;
}
NTDM_DEVICE inline double read(double value) {
    return value;
}
NTDM_DEVICE inline float read(BFloat value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}
NTDM_DEVICE inline float read(Half value) {
#ifdef __CUDACC__
    return __half2float(__ushort_as_half(value.bits));
#else
    _Float16 half;
    std::memcpy(&half, &value, sizeof half);
    return float(half);
#endif
}

NTDM_DEVICE inline void write(float* to, float value) {
    *to = value;
}
NTDM_DEVICE inline void write(double* to, double value) {
    *to = value;
}
NTDM_DEVICE inline void write(BFloat* to, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const bool nan = value != value;
    to->bits = nan ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
NTDM_DEVICE inline void write(Half* to, float value) {
#ifdef __CUDACC__
    to->bits = __half_as_ushort(__float2half_rn(value));
#else
    const _Float16 half = _Float16(value);
    std::memcpy(to, &half, sizeof half);
#endif
}

}  // namespace ntdm
