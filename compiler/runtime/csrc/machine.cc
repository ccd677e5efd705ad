#include "machine.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#else
#include <fstream>
#include <sstream>
#endif

namespace burnish {
namespace {

#if defined(__aarch64__)

// Names and bits of the kernel's arch/arm64/kernel/cpuinfo.c and asm/hwcap.h: AT_HWCAP, AT_HWCAP2.
constexpr const char* kFirst[] = {
    "fp",      "asimd", "evtstrm",  "aes",   "pmull", "sha1",    "sha2",    "crc32",
    "atomics", "fphp",  "asimdhp",  "cpuid", "asimdrdm", "jscvt", "fcma",   "lrcpc",
    "dcpop",   "sha3",  "sm3",      "sm4",   "asimddp", "sha512", "sve",    "asimdfhm",
    "dit",     "uscat", "ilrcpc",   "flagm", "ssbs",  "sb",      "paca",    "pacg"};
constexpr const char* kSecond[] = {
    "dcpodp",  "sve2",     "sveaes",   "svepmull", "svebitperm", "svesha3", "svesm4", "flagm2",
    "frint",   "svei8mm",  "svef32mm", "svef64mm", "svebf16",    "i8mm",    "bf16",   "dgh",
    "rng",     "bti",      "mte",      "ecv",      "afp",        "rpres",   "mte3",   "sme"};

std::set<std::string> Read() {
  std::set<std::string> names;
  auto take = [&names](const auto& table, unsigned long bits) {
    int bit = 0;
    for (const char* name : table) {
      if (bits >> bit++ & 1) names.insert(name);
    }
  };
  take(kFirst, getauxval(AT_HWCAP));
  take(kSecond, getauxval(AT_HWCAP2));
  return names;
}

#else

std::set<std::string> Read() {
  std::set<std::string> names;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string name; words >> name;) names.insert(name);
    break;
  }
  return names;
}

#endif

}  // namespace

const char* MachineName() {
#if defined(__aarch64__)
  return "aarch64";
#elif defined(__x86_64__)
  return "x86_64";
#else
#error "burnish's runtime knows no such machine"
#endif
}

const std::set<std::string>& CpuFeatures() {
  static const std::set<std::string>* features = new std::set<std::string>(Read());
  return *features;
}

}  // namespace burnish
