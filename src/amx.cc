#include "amx.h"

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>

#include "cpu_features.h"

#if defined(__x86_64__) && defined(__linux__)
#define WQTVM_HAS_AMX 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace wqtvm::amx {

TileConfig MakeTileConfig(int64_t palette, const std::vector<TileShape>& tiles) {
  if (palette != 1) {
    throw std::invalid_argument("palette is " + std::to_string(palette) +
                                "; AMX has palette 1 only");
  }
  if (tiles.size() > kTiles) {
    throw std::invalid_argument(std::to_string(tiles.size()) + " tiles are given; AMX has " +
                                std::to_string(kTiles));
  }
  TileConfig config{};
  config[0] = static_cast<uint8_t>(palette);
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const auto [rows, row_bytes] = tiles[i];
    const bool in_range =
        rows >= 0 && rows <= kMaxRows && row_bytes >= 0 && row_bytes <= kMaxRowBytes;
    if (!in_range || (rows == 0) != (row_bytes == 0)) {
      throw std::invalid_argument("tile " + std::to_string(i) + " is " + std::to_string(rows) +
                                  " rows of " + std::to_string(row_bytes) +
                                  " bytes; give 1 to 16 rows of 1 to 64 bytes, or 0 of 0");
    }
    config[16 + 2 * i] = static_cast<uint8_t>(row_bytes);  // at most 64: the high byte stays 0
    config[48 + i] = static_cast<uint8_t>(rows);
  }
  return config;
}

#ifdef WQTVM_HAS_AMX

namespace {

int AskKernel() {
  const std::vector<std::string> features = CpuFeatures();
  if (std::find(features.begin(), features.end(), "amx_tile") == features.end()) return ENODEV;
  // Linux: Documentation/arch/x86/xstate.rst.
  constexpr int kArchReqXcompPerm = 0x1023;
  constexpr int kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0 ? 0 : errno;
}

void CheckPermission() {
  if (RequestPermission() != 0) {
    throw std::runtime_error("this process may not use the AMX tile registers");
  }
}

// The attribute lets these two functions use AMX while the rest stays baseline x86-64, so that the
// library loads everywhere.
__attribute__((target("amx-tile"))) void Ldtilecfg(const TileConfig& config) {
  _tile_loadconfig(config.data());
}

__attribute__((target("amx-tile"))) void Tilerelease() { _tile_release(); }

}  // namespace

int RequestPermission() {
  // A permission is the whole process's and cannot be handed back: asking once is enough. The
  // initialisation of a local static is thread-safe.
  static const int status = AskKernel();
  return status;
}

void LoadTileConfig(const TileConfig& config) {
  CheckPermission();
  Ldtilecfg(config);
}

void ReleaseTiles() {
  CheckPermission();
  Tilerelease();
}

#else

int RequestPermission() { return ENODEV; }

void LoadTileConfig(const TileConfig&) {
  throw std::runtime_error("this build of wqtvm has no AMX: it is for another architecture");
}

void ReleaseTiles() {
  throw std::runtime_error("this build of wqtvm has no AMX: it is for another architecture");
}

#endif

}  // namespace wqtvm::amx
