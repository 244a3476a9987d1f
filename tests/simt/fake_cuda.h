// How tests look into and trouble the driver of fake_cuda.cpp: found in it by dlsym.
#pragma once

#include <cstdint>

extern "C" {

/// Forgets calls and errors to come; memory and objects stay.
void fake_cuda_reset();
/// The device's compute capability, 90 at first, and its memory, 1 GiB at first.
void fake_cuda_set_device(int capability, uint64_t bytes);
/// The `index`-th call from now on (0: the next) of any function but those that give back and those
/// that name errors fails with `error`.
void fake_cuda_fail_call(int64_t index, int error);
/// Whether that call has come.
bool fake_cuda_failed();
/// Calls since the last reset; of function `name` alone, where it is not null.
int64_t fake_cuda_calls(const char *name);
/// Bytes copied to the host since the last reset.
int64_t fake_cuda_bytes_to_host();
/// What has been made and not given back: memory, streams, events, modules, graphs.
int64_t fake_cuda_live_objects();
uint64_t fake_cuda_device_bytes();
}
