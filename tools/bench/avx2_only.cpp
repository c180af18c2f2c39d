// LD_PRELOAD=libqat_avx2_only.so: to a program the CPU then has AVX2 and neither AVX-512, VNNI nor AMX, whatever it has.
// For measuring what such CPUs do, and for runtimes that choose their kernels by CPUID alone, as ONNX Runtime does. The
// instruction is made to fault (arch_prctl(2), ARCH_SET_CPUID), and the fault is answered with those bits taken away.
// Ends the program with status 77 where the CPU or the kernel cannot do that.
#include <cpuid.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

namespace {

constexpr int kSetCpuid = 0x1012;  // ARCH_SET_CPUID of <asm/prctl.h>
constexpr int kSkipped = 77;

long allow_cpuid(bool allow) { return syscall(SYS_arch_prctl, kSetCpuid, allow ? 1UL : 0UL); }

constexpr uint32_t bits(std::initializer_list<int> positions) {
  uint32_t mask = 0;
  for (const int p : positions) mask |= uint32_t{1} << p;
  return mask;
}

void answer(int, siginfo_t*, void* context) {
  greg_t* r = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto* code = reinterpret_cast<const uint8_t*>(r[REG_RIP]);
  if (code[0] != 0x0f || code[1] != 0xa2) {  // not CPUID: a fault of the program's own, which comes again
    std::signal(SIGSEGV, SIG_DFL);
    return;
  }
  const auto leaf = static_cast<uint32_t>(r[REG_RAX]), part = static_cast<uint32_t>(r[REG_RCX]);
  uint32_t a = 0, b = 0, c = 0, d = 0;
  allow_cpuid(true);
  __cpuid_count(leaf, part, a, b, c, d);
  allow_cpuid(false);
  if (leaf == 7 && part == 0) {
    b &= ~bits({16, 17, 21, 26, 27, 28, 30, 31});   // AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL
    c &= ~bits({1, 6, 11, 12, 14});                 // AVX-512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    d &= ~bits({2, 3, 8, 22, 23, 24, 25});          // AVX-512 4VNNIW, 4FMAPS, VP2INTERSECT, FP16; AMX
  }
  if (leaf == 7 && part == 1) {
    a &= ~bits({4, 5, 21, 23});  // AVX-VNNI, AVX-512 BF16, AMX FP16, AVX-IFMA
    d &= ~bits({4, 5, 10});      // AVX-VNNI INT8, AVX-NE-CONVERT, AVX-VNNI INT16
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

/// Linked with -z initfirst: before any other library asks.
__attribute__((constructor)) void start() {
  struct sigaction action = {};
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, nullptr);
  if (allow_cpuid(false) == 0) return;
  std::fputs("avx2_only: this machine cannot hide what its CPU has (no CPUID faulting)\n", stderr);
  std::_Exit(kSkipped);
}

}  // namespace
