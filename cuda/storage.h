// Numbers as they are stored and as they are computed with: bfloat16 and half are read into float and rounded
// (to nearest, ties to even) when written. Sums are never made in them.

#pragma once

#include <cmath>
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
    const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
    float size =
        exponent ? std::ldexp(float(1024 + fraction), exponent - 25) : std::ldexp(float(fraction), -24);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    return value.bits >> 15 ? -size : size;
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
    const float size = std::fabs(value);
    int exponent;
    std::frexp(size, &exponent);
    const int last = size > 0 ? greater(exponent - 11, -24) : -24;  // exponent of the last bit that is kept
    // A fraction that rounds up to 2048 carries into the exponent, as it should.
    uint16_t bits = uint16_t(((last + 25) << 10) + int(std::nearbyint(std::ldexp(size, -last))) - 1024);
    if (!(size < 65520)) bits = size > 0 ? 0x7c00 : 0x7e00;
    to->bits = uint16_t(bits | (std::signbit(value) ? 0x8000 : 0));
#endif
}

}  // namespace ntdm
