// What the library says of itself. Compiled for any x86-64 processor, so that it can be asked before anything else.
#include "scratch.h"
#include "threads.h"

#include <cstring>

#if defined(VNET_ONEDNN)
#include <dnnl.h>
#endif

#if defined(VNET_ISA_AVX512)
#define VNET_ISA_NAME "avx512"
#elif defined(VNET_ISA_AVX2)
#define VNET_ISA_NAME "avx2"
#else
#define VNET_ISA_NAME "baseline"
#endif

namespace {

thread_local char last_error[1024] = "";

}  // namespace

extern "C" {

// Why the last entry that failed in this thread did.
const char* VnetLastError() { return last_error; }

void VnetKeepError(const char* text) {
  std::strncpy(last_error, text, sizeof last_error - 1);  // the last byte stays zero
}

const char* VnetIsa() { return VNET_ISA_NAME; }

// What the kernels keep of scratch memory.
int64_t VnetScratchBytes() { return vnet::scratch_kept(); }

void VnetSetThreads(int count) { vnet::set_threads(count); }

int VnetThreads() { return vnet::threads(); }

// 1: oneDNN is there. 0: the library was compiled without it. -1: another library of its name is in the process, as
// MindSpore 2.10 brings one; it was built for other threads than ours and would run on one.
int VnetHasOneDnn() {
#if defined(VNET_ONEDNN)
  const dnnl_version_t* version = dnnl_version();
  bool usable = version->major == DNNL_VERSION_MAJOR && version->minor >= DNNL_VERSION_MINOR &&
                version->cpu_runtime == DNNL_RUNTIME_OMP;
  return usable ? 1 : -1;
#else
  return 0;
#endif
}

// Keeps oneDNN to the instructions that the library was built for; to be called before its first use.
void VnetLimitOneDnn() {
#if defined(VNET_ONEDNN) && defined(VNET_ISA_AVX2)
  dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
#elif defined(VNET_ONEDNN) && !defined(VNET_ISA_AVX512)
  dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
#endif
}

}  // extern "C"
