// What this machine is, in the words of the manifest.
#ifndef BURNISH_MACHINE_H_
#define BURNISH_MACHINE_H_

#include <set>
#include <string>

namespace burnish {

// As `uname -m`, of the architecture that this code was compiled for.
const char* MachineName();

// The CPU's features by their names in /proc/cpuinfo.
const std::set<std::string>& CpuFeatures();

}  // namespace burnish

#endif  // BURNISH_MACHINE_H_
