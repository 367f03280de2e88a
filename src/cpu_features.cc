#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <array>
#include <cstdint>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace wqtvm {

#if defined(__x86_64__)

namespace {

enum Register { kEax, kEbx, kEcx, kEdx };

// Registers that the operating system has to save for a feature to be usable: bits of XCR0.
constexpr uint64_t kNoState = 0;
constexpr uint64_t kAvxState = 0x6;                  // xmm, ymm
constexpr uint64_t kAvx512State = kAvxState | 0xe0;  // k, upper zmm, zmm16 to zmm31
constexpr uint64_t kAmxState = 0x60000;              // tile configuration, tiles

struct Feature {
  const char* name;
  uint32_t leaf;
  uint32_t subleaf;
  Register reg;
  int bit;
  uint64_t state;
};

// Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E. Names: Linux, cpufeatures.h.
constexpr Feature kFeatures[] = {
    {"sse4_2", 1, 0, kEcx, 20, kNoState},
    {"movbe", 1, 0, kEcx, 22, kNoState},
    {"popcnt", 1, 0, kEcx, 23, kNoState},
    {"avx", 1, 0, kEcx, 28, kAvxState},
    {"f16c", 1, 0, kEcx, 29, kAvxState},
    {"fma", 1, 0, kEcx, 12, kAvxState},
    {"bmi1", 7, 0, kEbx, 3, kNoState},
    {"avx2", 7, 0, kEbx, 5, kAvxState},
    {"bmi2", 7, 0, kEbx, 8, kNoState},
    {"abm", 0x80000001, 0, kEcx, 5, kNoState},
    {"avx512f", 7, 0, kEbx, 16, kAvx512State},
    {"avx512dq", 7, 0, kEbx, 17, kAvx512State},
    {"avx512ifma", 7, 0, kEbx, 21, kAvx512State},
    {"avx512cd", 7, 0, kEbx, 28, kAvx512State},
    {"avx512bw", 7, 0, kEbx, 30, kAvx512State},
    {"avx512vl", 7, 0, kEbx, 31, kAvx512State},
    {"avx512vbmi", 7, 0, kEcx, 1, kAvx512State},
    {"avx512_vbmi2", 7, 0, kEcx, 6, kAvx512State},
    {"avx512_vnni", 7, 0, kEcx, 11, kAvx512State},
    {"avx512_bf16", 7, 1, kEax, 5, kAvx512State},
    {"avx512_fp16", 7, 0, kEdx, 23, kAvx512State},
    {"avx_vnni", 7, 1, kEax, 4, kAvxState},
    {"avx_vnni_int8", 7, 1, kEdx, 4, kAvxState},
    {"amx_bf16", 7, 0, kEdx, 22, kAmxState},
    {"amx_tile", 7, 0, kEdx, 24, kAmxState},
    {"amx_int8", 7, 0, kEdx, 25, kAmxState},
};

// EAX, EBX, ECX, EDX of a CPUID leaf; zeros where the CPU has no such leaf or subleaf. (CPUID
// answers a leaf that is too high with another leaf's data, so the highest ones are asked first.)
std::array<uint32_t, 4> Cpuid(uint32_t leaf, uint32_t subleaf) {
  std::array<uint32_t, 4> r{};
  if (__get_cpuid_max(leaf & 0x80000000U, nullptr) < leaf) return r;
  if (leaf == 7 && subleaf > 0) {
    __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]);
    if (r[kEax] < subleaf) return {};
  }
  __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
  return r;
}

// XCR0: the register states that the operating system saves. XGETBV is legal only with OSXSAVE.
uint64_t SavedStates() {
  constexpr uint32_t kOsxsave = 1U << 27;
  if (!(Cpuid(1, 0)[kEcx] & kOsxsave)) return 0;
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

}  // namespace

std::vector<std::string> CpuFeatures() {
  const uint64_t saved = SavedStates();
  std::vector<std::string> names;
  for (const Feature& f : kFeatures) {
    const bool in_cpu = (Cpuid(f.leaf, f.subleaf)[f.reg] >> f.bit) & 1U;
    if (in_cpu && (saved & f.state) == f.state) names.emplace_back(f.name);
  }
  return names;
}

#elif defined(__aarch64__) && defined(__linux__)

namespace {

struct Feature {
  const char* name;
  unsigned long auxv;
  int bit;
};

// Linux: arch/arm64/include/uapi/asm/hwcap.h. The kernel sets a bit only for what it supports.
constexpr Feature kFeatures[] = {
    {"asimd", AT_HWCAP, 1},  {"asimdhp", AT_HWCAP, 10}, {"asimddp", AT_HWCAP, 20},
    {"sve", AT_HWCAP, 22},   {"sve2", AT_HWCAP2, 1},    {"svei8mm", AT_HWCAP2, 9},
    {"i8mm", AT_HWCAP2, 13}, {"bf16", AT_HWCAP2, 14},
};

}  // namespace

std::vector<std::string> CpuFeatures() {
  std::vector<std::string> names;
  for (const Feature& f : kFeatures) {
    if ((getauxval(f.auxv) >> f.bit) & 1UL) names.emplace_back(f.name);
  }
  return names;
}

#else

std::vector<std::string> CpuFeatures() { return {}; }

#endif

}  // namespace wqtvm
