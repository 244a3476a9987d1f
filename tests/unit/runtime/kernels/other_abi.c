/* A kernel library of a later ABI. */
#include "kernel_abi.h"

const uint32_t moeplan_kernel_abi_version = MOEPLAN_KERNEL_ABI_VERSION + 1;
