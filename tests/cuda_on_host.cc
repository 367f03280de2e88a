// Runs CUDA source on the host, a thread after the other. KERNELS names the source as TVM prints
// it; its kernels have no shared memory and no barrier, so the order of the threads does not
// matter.
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <algorithm>
#include <limits>

// The part of CUDA that the source uses.
namespace {
struct Index {
  int x;
};
Index blockIdx, threadIdx;
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
using std::max;
using std::min;
}  // namespace
#define CUDART_NAN_F std::numeric_limits<float>::quiet_NaN()
#define __global__
#define __launch_bounds__(threads)

#include KERNELS

// What the compiled host code asks of its runtime, by pointers.
extern "C" {
extern int (*__TVMFFIFunctionCall)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);
extern int (*__TVMFFIEnvModLookupFromImports)(void*, const char*, void**);
extern int (*__TVMFFIHandleInitOnce)(void**, int (*)(void**));
}

namespace {

// A kernel takes as many as it has; the calling conventions let a caller pass more.
using Kernel = void (*)(void*, void*, void*, void*, void*, void*);
constexpr int kMaxPointers = 6;

void SetDevice(void*, void*, void*, void*, void*, void*) {}

int Find(void*, const char* name, void** kernel) {
  const bool is_set_device = !__builtin_strcmp(name, "__tvm_set_device");
  *kernel = is_set_device ? reinterpret_cast<void*>(SetDevice) : dlsym(RTLD_DEFAULT, name);
  if (!*kernel) fprintf(stderr, "cuda_on_host: no kernel %s\n", name);
  return *kernel ? 0 : -1;
}

int InitOnce(void** handle, int (*init)(void**)) { return *handle ? 0 : init(handle); }

// Arguments: the kernel's pointers, then the numbers of blocks and of threads in a block.
int Launch(void* handle, const TVMFFIAny* arguments, int32_t count, TVMFFIAny*) {
  const Kernel kernel = reinterpret_cast<Kernel>(handle);
  if (kernel == SetDevice) return 0;
  const int pointers = count - 2;
  if (pointers < 1 || pointers > kMaxPointers || arguments[pointers].type_index != kTVMFFIInt ||
      arguments[pointers - 1].type_index == kTVMFFIInt) {
    fprintf(stderr, "cuda_on_host: a launch that is not one-dimensional\n");
    return -1;
  }
  void* p[kMaxPointers] = {};
  for (int i = 0; i < pointers; ++i) p[i] = arguments[i].v_ptr;
  const int64_t blocks = arguments[pointers].v_int64, threads = arguments[pointers + 1].v_int64;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
      kernel(p[0], p[1], p[2], p[3], p[4], p[5]);
    }
  }
  return 0;
}

__attribute__((constructor)) void Provide() {
  __TVMFFIFunctionCall = Launch;
  __TVMFFIEnvModLookupFromImports = Find;
  __TVMFFIHandleInitOnce = InitOnce;
}

}  // namespace
