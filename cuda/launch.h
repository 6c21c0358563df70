// How the kernels of *_cuda.cu run: a body is a struct whose operator() does the work of one index.
//
//     each(count, stream, body)             body(i), one thread an index
//     each_team<N>(count, stream, body)     body(i, team), N lanes an index
//
// nvcc makes CUDA kernels of it; a plain C++ compiler loops, or one thread a lane (launch_host.h): the same
// sources, launchers included, then run on a machine without a GPU, and tests hold them against the CPU
// operators. No result may depend on the order of indices: sums are made by the body that owns their target,
// and only integers go through atomics.

#pragma once

#include <cstdint>
#include <cstring>

#include "device.h"

#ifndef __CUDACC__
#include "launch_host.h"
#define NTDM_BODY
#else

// On bodies' operator(), which call what only the device has.
#define NTDM_BODY __device__

namespace ntdm {

typedef cudaStream_t Stream;

// N neighbouring lanes of one warp. All of them call sum and ballot together.
template <int N>
struct Team {
    static constexpr int size = N;
    int lane;
    unsigned warp_lanes;  // the team's, as bits
    char* scratch;        // the team's own

    // A butterfly: each step adds the same two numbers in both lanes, so all end with the same bits.
    template <typename T>
    __device__ T sum(T value) const {
        for (int step = N / 2; step; step /= 2) value += __shfl_xor_sync(warp_lanes, value, step, N);
        return value;
    }
    // Bit l: lane l's flag.
    __device__ uint32_t ballot(bool flag) const {
        return (__ballot_sync(warp_lanes, flag) & warp_lanes) >> (__ffs(int(warp_lanes)) - 1);
    }
};

__device__ inline int first_bit(uint32_t bits) {
    return __ffs(int(bits)) - 1;
}
__device__ inline int count_bits(uint32_t bits) {
    return __popc(bits);
}
__device__ inline int32_t atomic_add(int32_t* at, int32_t value) {
    return atomicAdd(at, value);
}
__device__ inline void atomic_add(int64_t* at, int64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
}
__device__ inline void atomic_min(int64_t* at, int64_t value) {
    atomicMin(reinterpret_cast<long long*>(at), static_cast<long long>(value));
}

constexpr int kBlock = 256;
constexpr int64_t kScratchLimit = 48 * 1024;  // shared memory that a block has without asking

inline unsigned blocks(int64_t count, int64_t a_block) {
    const int64_t wanted = (count + a_block - 1) / a_block;
    return unsigned(wanted < (1 << 30) ? wanted : 1 << 30);  // beyond that, the kernels' strides go on
}

template <typename Body>
__global__ void each_kernel(int64_t count, Body body) {
    const int64_t stride = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) body(i);
}

template <int N, typename Body>
__global__ void team_kernel(int64_t count, int64_t scratch_bytes, Body body) {
    extern __shared__ __align__(16) char shared[];
    const int teams = int(blockDim.x) / N, number = int(threadIdx.x) / N;
    const unsigned lanes = N == 32 ? 0xffffffffu : ((1u << N) - 1u) << (threadIdx.x % 32 / N * N);
    const Team<N> team = {int(threadIdx.x) % N, lanes, shared + number * scratch_bytes};
    const int64_t stride = int64_t(gridDim.x) * teams;
    for (int64_t i = int64_t(blockIdx.x) * teams + number; i < count; i += stride) body(i, team);
}

template <typename Body>
void each(int64_t count, Stream stream, const Body& body) {
    if (count > 0) each_kernel<<<blocks(count, kBlock), kBlock, 0, stream>>>(count, body);
}

// scratch_bytes: what each team needs for itself; a team's lanes do not see each other's writes to it.
template <int N, typename Body>
void each_team(int64_t count, Stream stream, const Body& body, int64_t scratch_bytes = 0) {
    scratch_bytes = (scratch_bytes + 15) / 16 * 16;
    int teams = kBlock / N;
    while (teams > 32 / N && teams * scratch_bytes > kScratchLimit) teams /= 2;
    if (count > 0)
        team_kernel<N><<<blocks(count, teams), teams * N, size_t(teams * scratch_bytes), stream>>>(
            count, scratch_bytes, body);
}

// 0, or the error of the launches; Python turns it into an exception by name.
inline int launch_error() {
    return int(cudaGetLastError());
}

}  // namespace ntdm

#endif
