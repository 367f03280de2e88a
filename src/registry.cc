// The native part as Python sees it: tvm_ffi global functions "wqtvm.runtime.*".
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "amx.h"
#include "cpu_features.h"

namespace {

namespace ffi = tvm::ffi;
namespace amx = wqtvm::amx;

ffi::Array<ffi::String> Features() {
  ffi::Array<ffi::String> names;
  for (const std::string& name : wqtvm::CpuFeatures()) names.push_back(name);
  return names;
}

amx::TileConfig ConfigOf(int64_t palette, const ffi::Array<int64_t>& rows,
                         const ffi::Array<int64_t>& row_bytes) {
  if (rows.size() != row_bytes.size()) {
    TVM_FFI_THROW(ValueError) << rows.size() << " tiles have rows, " << row_bytes.size()
                              << " have bytes in a row";
  }
  std::vector<amx::TileShape> tiles;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    tiles.push_back({rows[i], row_bytes[i]});
  }
  try {
    return amx::MakeTileConfig(palette, tiles);
  } catch (const std::invalid_argument& error) {
    TVM_FFI_THROW(ValueError) << error.what();
    throw;  // not reached: the line above throws
  }
}

ffi::Bytes TileConfigBytes(int64_t palette, const ffi::Array<int64_t>& rows,
                           const ffi::Array<int64_t>& row_bytes) {
  const amx::TileConfig config = ConfigOf(palette, rows, row_bytes);
  return ffi::Bytes(reinterpret_cast<const char*>(config.data()), config.size());
}

void LoadTileConfig(int64_t palette, const ffi::Array<int64_t>& rows,
                    const ffi::Array<int64_t>& row_bytes) {
  amx::LoadTileConfig(ConfigOf(palette, rows, row_bytes));
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef()
      .def("wqtvm.runtime.cpu_features", Features)
      .def("wqtvm.runtime.amx_request_permission", amx::RequestPermission)
      .def("wqtvm.runtime.amx_tile_config_bytes", TileConfigBytes)
      .def("wqtvm.runtime.amx_load_tile_config", LoadTileConfig)
      .def("wqtvm.runtime.amx_release_tiles", amx::ReleaseTiles);
}
