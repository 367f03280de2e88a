// What this CPU can do and its operating system lets it do.
#ifndef WQTVM_CPU_FEATURES_H_
#define WQTVM_CPU_FEATURES_H_

#include <string>
#include <vector>

namespace wqtvm {

// Names of the usable features, spelled as Linux spells them in /proc/cpuinfo ("avx512_vnni",
// "amx_int8"; on Arm "asimd", "asimddp", "i8mm"). A feature whose registers the operating system
// does not save (XGETBV) is left out. Only features that matter to some target are looked for.
std::vector<std::string> CpuFeatures();

}  // namespace wqtvm

#endif  // WQTVM_CPU_FEATURES_H_
