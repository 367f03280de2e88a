// AMX: the kernel's permission, and the configuration of the tile registers.
#ifndef WQTVM_AMX_H_
#define WQTVM_AMX_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace wqtvm::amx {

constexpr std::size_t kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

// The shape of one tile register: rows, and bytes in a row. {0, 0} leaves the register unused.
struct TileShape {
  int64_t rows;
  int64_t row_bytes;
};

// The 64 bytes that LDTILECFG reads (Intel SDM volume 1, section 18.3): palette, start row, the
// bytes in a row of each tile as 16-bit numbers from byte 16, the rows of each from byte 48.
using TileConfig = std::array<uint8_t, 64>;

// Throws std::invalid_argument where LDTILECFG would fault.
TileConfig MakeTileConfig(int64_t palette, const std::vector<TileShape>& tiles);

// Asks the kernel, once in the life of the process, for the use of the tile registers. Returns 0,
// or the errno of the refusal; ENODEV where the CPU or this build has no AMX.
int RequestPermission();

// Configures or releases the tile registers of the calling thread; no others. Both throw
// std::runtime_error without permission, when the instruction would end the process.
void LoadTileConfig(const TileConfig& config);
void ReleaseTiles();

}  // namespace wqtvm::amx

#endif  // WQTVM_AMX_H_
