// launch.h where there is no CUDA: for tests of the CUDA sources, compiled by a plain C++ compiler. Teams
// have one lane and an index after the other is done; with NTDM_THREAD_LANES they have all their lanes, a
// thread each, which find mistakes of the lanes' arithmetic and of who waits for whom.

#pragma once

#include <pthread.h>

#include <cstdint>
#include <thread>
#include <vector>

#include "device.h"

namespace ntdm {

typedef void* Stream;

inline int first_bit(uint32_t bits) {
    return __builtin_ctz(bits);
}
inline int count_bits(uint32_t bits) {
    return __builtin_popcount(bits);
}
template <typename T>
inline T atomic_add(T* at, T value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline void atomic_min(int64_t* at, int64_t value) {
    int64_t old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < old &&
           !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
}

template <typename Body>
void each(int64_t count, Stream, const Body& body) {
    for (int64_t i = 0; i < count; ++i) body(i);
}

inline int launch_error() {
    return 0;
}

#ifndef NTDM_THREAD_LANES

template <int N>
struct Team {
    static constexpr int size = 1;
    int lane;
    char* scratch;

    template <typename T>
    T sum(T value) const {
        return value;
    }
    uint32_t ballot(bool flag) const { return flag; }
};

template <int N, typename Body>
void each_team(int64_t count, Stream, const Body& body, int64_t scratch_bytes = 0) {
    std::vector<double> scratch(size_t(scratch_bytes) / sizeof(double) + 1);
    const Team<N> team = {0, reinterpret_cast<char*>(scratch.data())};
    for (int64_t i = 0; i < count; ++i) body(i, team);
}

#else

// Where the lanes of a team meet.
template <int N>
struct Meeting {
    pthread_barrier_t barrier;
    double values[N];
    bool flags[N];
};

template <int N>
struct Team {
    static constexpr int size = N;
    int lane;
    char* scratch;
    Meeting<N>* meeting;

    template <typename T>
    T sum(T value) const {
        T now[N], next[N];
        meeting->values[lane] = double(value);
        pthread_barrier_wait(&meeting->barrier);
        for (int l = 0; l < N; ++l) now[l] = T(meeting->values[l]);
        pthread_barrier_wait(&meeting->barrier);
        for (int step = N / 2; step; step /= 2) {
            for (int l = 0; l < N; ++l) next[l] = now[l] + now[l ^ step];
            for (int l = 0; l < N; ++l) now[l] = next[l];
        }
        return now[lane];
    }
    uint32_t ballot(bool flag) const {
        uint32_t bits = 0;
        meeting->flags[lane] = flag;
        pthread_barrier_wait(&meeting->barrier);
        for (int l = 0; l < N; ++l) bits |= uint32_t(meeting->flags[l]) << l;
        pthread_barrier_wait(&meeting->barrier);
        return bits;
    }
};

template <int N, typename Body>
void each_team(int64_t count, Stream, const Body& body, int64_t scratch_bytes = 0) {
    Meeting<N> meeting;
    pthread_barrier_init(&meeting.barrier, nullptr, N);
    std::vector<double> scratch(size_t(scratch_bytes) / sizeof(double) + 1);
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < N; ++lane)
        lanes.emplace_back([&, lane] {
            const Team<N> team = {lane, reinterpret_cast<char*>(scratch.data()), &meeting};
            for (int64_t i = 0; i < count; ++i) body(i, team);
        });
    for (std::thread& lane : lanes) lane.join();
    pthread_barrier_destroy(&meeting.barrier);
}

#endif

}  // namespace ntdm
