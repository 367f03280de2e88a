// Runs one compiled kernel without a TVM runtime: run_kernel ARGUMENTS RESULT [TASKS].
//
// ARGUMENTS holds the kernel's tensors one after the other: device type, dtype code, bits and rank
// as int32, the shape as int64, the data. The last one is the result, whose data is written to
// RESULT. Parallel loops are divided into TASKS tasks that run one after the other.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

enum { kMaxTensors = 8, kMaxRank = 8, kAlignment = 64 };

typedef struct {
  void* sync_handle;
  int32_t num_task;
} ParallelEnv;
typedef int (*ParallelLambda)(int task, ParallelEnv* env, void* closure);

// What the compiled code asks of its runtime (tvm/runtime/c_backend_api.h): pointers that are there
// if it does. Small layers need no workspace, device code has no parallel loops.
extern __attribute__((weak)) void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern __attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void*);
extern __attribute__((weak)) int (*__TVMBackendParallelLaunch)(ParallelLambda, void*, int);
int __tvm_ffi_main(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);

static int num_tasks = 1;

static void Fail(const char* what) {
  fprintf(stderr, "run_kernel: %s\n", what);
  exit(1);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) {
    if (parts[i]) fputs(parts[i], stderr);
  }
  fputc('\n', stderr);
}

static void* Allocate(uint64_t bytes) {
  const uint64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = aligned_alloc(kAlignment, rounded ? rounded : kAlignment);
  if (!memory) Fail("out of memory");
  // Every float is NaN and every integer -1: what is read before it is written shows.
  memset(memory, 0xff, rounded);
  return memory;
}

static void* AllocWorkspace(int device, int id, uint64_t bytes, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  return Allocate(bytes);
}

static int FreeWorkspace(int device, int id, void* memory) {
  (void)device, (void)id;
  free(memory);
  return 0;
}

static int ParallelLaunch(ParallelLambda lambda, void* closure, int tasks) {
  ParallelEnv env = {NULL, tasks > 0 ? tasks : num_tasks};
  for (int task = 0; task < env.num_task; ++task) {
    const int failed = lambda(task, &env, closure);
    if (failed) return failed;
  }
  return 0;
}

typedef struct {
  DLTensor tensor;
  int64_t shape[kMaxRank], strides[kMaxRank];
  uint64_t bytes;
} Argument;

// Reads the next tensor; returns 0 at the end of the file.
static int Read(FILE* file, Argument* argument) {
  int32_t head[4];
  const size_t got = fread(head, sizeof(int32_t), 4, file);
  if (got == 0) return 0;
  const int32_t rank = head[3];
  if (got != 4 || rank > kMaxRank ||
      fread(argument->shape, sizeof(int64_t), rank, file) != (size_t)rank) {
    Fail("ARGUMENTS is damaged");
  }
  int64_t count = 1;
  for (int32_t axis = rank - 1; axis >= 0; --axis) {
    argument->strides[axis] = count;
    count *= argument->shape[axis];
  }
  argument->bytes = (uint64_t)count * head[2] / 8;
  DLTensor* tensor = &argument->tensor;
  tensor->data = Allocate(argument->bytes);
  tensor->device = (DLDevice){(DLDeviceType)head[0], 0};
  tensor->ndim = rank;
  tensor->dtype = (DLDataType){(uint8_t)head[1], (uint8_t)head[2], 1};
  tensor->shape = argument->shape;
  tensor->strides = argument->strides;
  tensor->byte_offset = 0;
  if (fread(tensor->data, 1, argument->bytes, file) != argument->bytes)
    Fail("ARGUMENTS ends early");
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 3) Fail("usage: run_kernel ARGUMENTS RESULT [TASKS]");
  if (argc > 3) num_tasks = atoi(argv[3]);
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = AllocWorkspace;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = FreeWorkspace;
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = ParallelLaunch;

  FILE* file = fopen(argv[1], "rb");
  if (!file) Fail("cannot open ARGUMENTS");
  static Argument arguments[kMaxTensors];
  TVMFFIAny packed[kMaxTensors], nothing;
  memset(packed, 0, sizeof packed);
  memset(&nothing, 0, sizeof nothing);
  int32_t count = 0;
  while (count < kMaxTensors && Read(file, &arguments[count])) {
    packed[count].type_index = kTVMFFIDLTensorPtr;
    packed[count].v_ptr = &arguments[count].tensor;
    ++count;
  }
  fclose(file);
  if (count == 0) Fail("ARGUMENTS is empty");
  if (__tvm_ffi_main(NULL, packed, count, &nothing)) Fail("the kernel failed");

  const Argument* result = &arguments[count - 1];
  file = fopen(argv[2], "wb");
  if (!file || fwrite(result->tensor.data, 1, result->bytes, file) != result->bytes ||
      fclose(file)) {
    Fail("cannot write RESULT");
  }
  return 0;
}
