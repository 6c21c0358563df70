// What lets one function serve a CPU kernel (g++) and a CUDA kernel (nvcc): shared headers mark theirs
// NTDM_DEVICE and use nothing that only one of the two has.

#pragma once

#ifdef __CUDACC__
#define NTDM_DEVICE __host__ __device__
#else
#define NTDM_DEVICE
#endif

namespace ntdm {

// std::min and std::max, which nvcc does not take on the device.
template <typename T>
NTDM_DEVICE inline T lesser(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
NTDM_DEVICE inline T greater(T a, T b) {
    return a < b ? b : a;
}

}  // namespace ntdm
