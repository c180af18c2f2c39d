// The library's front door: what a program that loaded it with dlopen asks first, by the name of the C function.
#pragma once

#include <cstddef>

extern "C" {

/// GPUs that the kernels can run on. Where it is 0, the reason, of which `size` bytes have room, says why in one line:
/// no driver, no device, or only devices of an architecture that the library was not built for. Never throws.
int qat_cuda_device_count(char* reason, size_t size);
}
