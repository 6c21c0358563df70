// Vectors of the compiler (GCC, Clang), whatever registers the CPU has: left to itself it finds loops over
// pixels too long to turn into vectors.

#pragma once

#include <cstdint>
#include <cstring>

namespace ntdm {

// Neighbouring pixels that a CPU kernel takes at a time, a vector lane each.
constexpr int kLanes = 8;

// kLanes values of a type, and integers of the same size.
template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float Value __attribute__((vector_size(32)));
    typedef int32_t Index __attribute__((vector_size(32)));
};
template <>
struct Lanes<double> {
    typedef double Value __attribute__((vector_size(64)));
    typedef int64_t Index __attribute__((vector_size(64)));
};

template <typename V, typename T>
inline V load(const T* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <typename V, typename T>
inline void store(T* to, V value) {
    std::memcpy(to, &value, sizeof value);
}

}  // namespace ntdm
