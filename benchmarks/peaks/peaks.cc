// What one machine can do at most: multiply-accumulates and reads a second, by so many threads at
// once.
//
//   peaks THREADS    prints one line of JSON; a rate is null where the CPU lacks the instruction
//
// Every thread works on registers, or on a buffer of its own, in windows that all threads begin
// together; the best window counts, because anything else that the machine does can only make one
// slower.

#if !defined(__x86_64__)
#error "peaks.cc knows the instructions of x86-64 only"
#endif

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int kWindows = 50;
constexpr double kWindowSeconds = 0.002;  // shorter than a time slice, lest each be interrupted
constexpr size_t kInMemory = 8 << 20;     // a window's share of a buffer that no cache holds
constexpr int kAccumulators = 16;         // more than latency times throughput of any product below

// A kernel repeats its loop so often on a buffer of so many bytes, and returns the work: operations
// or bytes.
using Kernel = double (*)(long repeats, const uint8_t* buffer, size_t bytes);

__attribute__((target("avx512f"))) double FmaZmm(long repeats, const uint8_t*, size_t) {
  __m512 sums[kAccumulators], factor = _mm512_set1_ps(1.0000001f), term = _mm512_set1_ps(1e-9f);
  for (auto& sum : sums) sum = _mm512_set1_ps(1.0f);
  for (long r = 0; r < repeats; r++) {
#pragma GCC unroll 16
    for (auto& sum : sums)
      asm volatile("vfmadd213ps %2, %1, %0" : "+v"(sum) : "v"(factor), "v"(term));
  }
  return 2.0 * 16 * kAccumulators * repeats;
}

__attribute__((target("avx2,fma"))) double FmaYmm(long repeats, const uint8_t*, size_t) {
  __m256 sums[12], factor = _mm256_set1_ps(1.0000001f), term = _mm256_set1_ps(1e-9f);
  for (auto& sum : sums) sum = _mm256_set1_ps(1.0f);
  for (long r = 0; r < repeats; r++) {
#pragma GCC unroll 12
    for (auto& sum : sums)
      asm volatile("vfmadd213ps %2, %1, %0" : "+x"(sum) : "x"(factor), "x"(term));
  }
  return 2.0 * 8 * 12 * repeats;
}

__attribute__((target("avx512f"))) double Bfloat16Zmm(long repeats, const uint8_t*, size_t) {
  __m512i sums[kAccumulators], a = _mm512_set1_epi16(0x3f80), b = _mm512_set1_epi16(0x3f00);
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (long r = 0; r < repeats; r++) {
#pragma GCC unroll 16
    for (auto& sum : sums) asm volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  return 2.0 * 32 * kAccumulators * repeats;
}

__attribute__((target("avx512f,avx512bw"))) double VnniZmm(long repeats, const uint8_t*, size_t) {
  __m512i sums[kAccumulators], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(2);
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (long r = 0; r < repeats; r++) {
#pragma GCC unroll 16
    for (auto& sum : sums) asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  return 2.0 * 64 * kAccumulators * repeats;
}

// As AVX-VNNI encodes it, for CPUs without AVX-512.
__attribute__((target("avx2"))) double VnniYmm(long repeats, const uint8_t*, size_t) {
  __m256i sums[12], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(2);
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  for (long r = 0; r < repeats; r++) {
#pragma GCC unroll 12
    for (auto& sum : sums) asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
  return 2.0 * 32 * 12 * repeats;
}

// With the addition that every such product needs.
__attribute__((target("avx2"))) double MaddYmm(long repeats, const uint8_t*, size_t) {
  __m256i sums[12], a = _mm256_set1_epi16(3), b = _mm256_set1_epi16(2), product;
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  for (long r = 0; r < repeats; r++) {
#pragma GCC unroll 12
    for (auto& sum : sums)
      asm volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
                   : "+x"(sum), "=&x"(product)
                   : "x"(a), "x"(b));
  }
  return 2.0 * 16 * 12 * repeats;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Four accumulators, two tiles of each operand, all loaded from L1 for every four products: a loop
// on registers alone does not see the state in which some virtual machines load tiles slowly.
__attribute__((target("amx-tile,amx-int8"))) double AmxTiles(long repeats, const uint8_t* buffer,
                                                             size_t bytes) {
  TileConfig config;
  for (int tile = 0; tile < 8; tile++) config.row_bytes[tile] = 64, config.rows[tile] = 16;
  // GCC 12 believes that 8 of the 64 bytes are read, and leaves the others out.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  size_t offset = 0;
  for (long r = 0; r < repeats; r++) {
    const uint8_t* tiles = buffer + offset;
    _tile_loadd(4, tiles, 64);
    _tile_loadd(5, tiles + 1024, 64);
    _tile_loadd(6, tiles + 2048, 64);
    _tile_loadd(7, tiles + 3072, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
    offset = (offset + 4096) % bytes;
  }
  _tile_release();
  return 4 * 2.0 * 16 * 16 * 64 * repeats;
}

__attribute__((target("avx512f"))) double ReadZmm(long repeats, const uint8_t* buffer,
                                                  size_t bytes) {
  for (long r = 0; r < repeats; r++) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes; i += 256) {
      a = _mm512_or_si512(a, _mm512_load_si512(buffer + i));
      b = _mm512_or_si512(b, _mm512_load_si512(buffer + i + 64));
      c = _mm512_or_si512(c, _mm512_load_si512(buffer + i + 128));
      d = _mm512_or_si512(d, _mm512_load_si512(buffer + i + 192));
    }
    asm volatile("" ::"v"(a), "v"(b), "v"(c), "v"(d));
  }
  return 1.0 * bytes * repeats;
}

__attribute__((target("avx2"))) double ReadYmm(long repeats, const uint8_t* buffer, size_t bytes) {
  for (long r = 0; r < repeats; r++) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes; i += 128) {
      const auto* words = reinterpret_cast<const __m256i*>(buffer + i);
      a = _mm256_or_si256(a, _mm256_load_si256(words));
      b = _mm256_or_si256(b, _mm256_load_si256(words + 1));
      c = _mm256_or_si256(c, _mm256_load_si256(words + 2));
      d = _mm256_or_si256(d, _mm256_load_si256(words + 3));
    }
    asm volatile("" ::"x"(a), "x"(b), "x"(c), "x"(d));
  }
  return 1.0 * bytes * repeats;
}

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How often a kernel has to repeat its loop to fill a window.
long Repeats(Kernel kernel, const uint8_t* buffer, size_t bytes) {
  for (long repeats = 1;; repeats *= 2) {
    const double begin = Now();
    kernel(repeats, buffer, bytes);
    if (Now() - begin > kWindowSeconds / 2) return repeats;
  }
}

// All threads wait here, spinning, so that their windows begin within a microsecond.
class Start {
 public:
  explicit Start(int threads) : threads_(threads) {}
  void Wait(int window) {
    arrived_.fetch_add(1);
    while (arrived_.load() < threads_ * (window + 1)) std::this_thread::yield();
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
};

// The work a second of all threads together, in their best window, or in that at some rank between
// the worst, 0, and the best, 1. Each window works on the next `bytes` of a buffer of `whole` bytes:
// where they are equal, always on the same.
double Rate(Kernel kernel, int threads, size_t bytes, size_t whole, double rank = 1) {
  Start start(threads);
  std::vector<std::vector<double>> rates(threads, std::vector<double>(kWindows));
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; t++) {
    pool.emplace_back([&, t] {
      auto* buffer = static_cast<uint8_t*>(std::aligned_alloc(4096, whole));
      if (!buffer) std::perror("peaks"), std::exit(1);
      std::memset(buffer, 1, whole);
      const long repeats = whole > bytes ? 1 : Repeats(kernel, buffer, bytes);
      for (int w = 0; w < kWindows; w++) {
        const uint8_t* part = buffer + w * bytes % whole;
        start.Wait(w);
        const double begin = Now();
        const double work = kernel(repeats, part, bytes);
        rates[t][w] = work / (Now() - begin);
      }
      std::free(buffer);
    });
  }
  for (auto& thread : pool) thread.join();
  std::vector<double> sums(kWindows);
  for (int w = 0; w < kWindows; w++)
    for (int t = 0; t < threads; t++) sums[w] += rates[t][w];
  std::sort(sums.begin(), sums.end());
  return sums[std::lround(rank * (kWindows - 1))];
}

// Of L3, which many may share, what one thread gets to itself: the most bytes, by powers of two from
// twice L2 on, that are read again and again at the speed of L3 rather than of memory. The median
// window counts: the best one may have met the others asleep.
size_t HeldByL3(Kernel read, size_t l2, size_t l3) {
  size_t held = 2 * l2;
  const double near = Rate(read, 1, held, held, 0.5);
  const double far = Rate(read, 1, kInMemory, kWindows * kInMemory, 0.5);
  for (size_t bytes = 2 * held; bytes <= l3; bytes *= 2) {
    if (Rate(read, 1, bytes, bytes, 0.5) < std::sqrt(near * far)) break;
    held = bytes;
  }
  return held;
}

bool HasAmxInt8() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// A flag of CPUID's leaf 7, subleaf 1, in register eax.
bool HasFlag(int bit) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> bit & 1);
}

size_t CacheBytes(int name, size_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? bytes : otherwise;
}

size_t Whole(size_t bytes) { return std::max<size_t>(bytes / 4096, 1) * 4096; }

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc == 2 ? std::atoi(argv[1]) : 0;
  if (threads < 1) return std::fprintf(stderr, "usage: peaks THREADS\n"), 2;
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f"), avx2 = __builtin_cpu_supports("avx2");
  if (!avx2 || !__builtin_cpu_supports("fma"))
    return std::fprintf(stderr,
                        "peaks: this CPU has no AVX2 and FMA, the least that is measured\n"),
           3;
  constexpr int kAvxVnni = 4, kAvx512Bfloat16 = 5;
  const bool vnni = __builtin_cpu_supports("avx512vnni"), avx_vnni = HasFlag(kAvxVnni),
             bfloat16 = avx512 && HasFlag(kAvx512Bfloat16), amx = HasAmxInt8();

  const size_t l1 = CacheBytes(_SC_LEVEL1_DCACHE_SIZE, 32 << 10),
               l2 = CacheBytes(_SC_LEVEL2_CACHE_SIZE, 1 << 20);
  const size_t l3 = CacheBytes(_SC_LEVEL3_CACHE_SIZE, 16 << 20);
  const Kernel read = avx512 ? ReadZmm : ReadYmm;
  // Half a cache, so that the rest of the machine has room; of L3, what one core may expect of it;
  // of memory, always what has been out of use for longest.
  const size_t in_l1 = Whole(l1 / 2), in_l2 = Whole(l2 / 2),
               in_l3 = Whole(std::min(8 * l2, l3 / 2));

  std::printf("{\"threads\": %d, \"l1_bytes\": %zu, \"l2_bytes\": %zu, \"l3_bytes\": %zu", threads,
              l1, l2, l3);
  const auto measure = [&](const char* name, bool present, Kernel kernel, size_t bytes,
                           size_t whole) {
    if (present)
      std::printf(", \"%s\": %.4g", name, Rate(kernel, threads, bytes, whole));
    else
      std::printf(", \"%s\": null", name);
  };
  measure("float32", true, avx512 ? FmaZmm : FmaYmm, in_l1, in_l1);
  measure("float32_ymm", true, FmaYmm, in_l1, in_l1);
  measure("bfloat16", bfloat16, Bfloat16Zmm, in_l1, in_l1);
  measure("vnni", vnni, VnniZmm, in_l1, in_l1);
  measure("avx_vnni", avx_vnni, VnniYmm, in_l1, in_l1);
  measure("avx2", true, MaddYmm, in_l1, in_l1);
  measure("amx", amx, AmxTiles, 16 << 10, 16 << 10);
  measure("l1", true, read, in_l1, in_l1);
  measure("l2", true, read, in_l2, in_l2);
  measure("l3", true, read, in_l3, in_l3);
  measure("memory", true, read, kInMemory, kWindows * kInMemory);
  std::printf(", \"l3_core_bytes\": %zu}\n", HeldByL3(read, l2, l3));
}
