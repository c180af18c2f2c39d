// tools/quickstart and tools/test on machines that lack something. The scripts run in a copy, and programs of the
// machine are replaced by stand-ins at the front of PATH, so nothing is installed, downloaded or built.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/tree/tree.h"

namespace qat::tree {
namespace {

using std::filesystem::path;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int status = -1;
  std::string output;  // stdout and stderr
};

class Scripts : public testing::Test {
 protected:
  void SetUp() override {
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    root_ = path(testing::TempDir()) /
            ("qat scripts " + std::to_string(getpid()) + " " + test);  // a space, as in many people's paths
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_ / "stand-ins");
    std::filesystem::create_directories(root_ / "tools");
    std::filesystem::copy(kRoot / "tools/lib", root_ / "tools/lib");
    for (const char* script : {"quickstart", "test"}) {
      std::filesystem::copy(kRoot / "tools" / script, root_ / "tools" / script);
    }
    // A machine that has everything; tests take away.
    stand_in("uname", "[ \"$1\" = -s ] && echo Linux || echo x86_64");
    stand_in("df", "echo head; echo 'disk 9 9 99999 9% /'");
    stand_in("dpkg-query", "for name; do case $name in -*|*{*) ;; *) echo installed $name ;; esac; done");
    stand_in("sudo", "[ \"$1\" = -v ] || exec \"$@\"");
    for (const char* never : {"apt-get", "python3", "unzip", "cmake", "ctest"})
      stand_in(never, "echo unexpected; exit 9");
    write(".deps/torch/include/torch/csrc/api/include/torch/torch.h", "");
    write(".deps/torch/lib/libtorch_cpu.so", "");
    stand_in("ldd", "echo 'libc.so.6 => /lib/libc.so.6'");
    std::filesystem::copy(root_ / "tools/lib/libtorch.txt", root_ / ".deps/libtorch.stamp");
    write(".deps/onnxruntime/libonnxruntime.so.1", "");
    std::filesystem::copy(root_ / "tools/lib/onnxruntime.txt", root_ / ".deps/onnxruntime.stamp");
  }

  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const path& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }

  void stand_in(const std::string& program, const std::string& script) {
    write(path("stand-ins") / program, "#!/bin/sh\n" + script + "\n");
    std::filesystem::permissions(root_ / "stand-ins" / program, std::filesystem::perms::owner_all);
  }

  /// `cmake` that leaves a program in build/release which prints its arguments.
  void cmake_builds() {
    stand_in("cmake",
             "mkdir -p build/release/bin; printf '#!/bin/sh\\necho qat \"$@\"\\n' >build/release/bin/qat; "
             "chmod +x build/release/bin/qat; echo cmake \"$@\" >>cmake.txt");
  }

  Outcome run(const std::string& command) const {
    const std::string line = "cd '" + root_.string() +
                             "' && unset QAT_LIBTORCH QAT_ONNXRUNTIME && PATH=\"$PWD/stand-ins:$PATH\" " + command +
                             " 2>&1 </dev/null";
    FILE* pipe = popen(line.c_str(), "r");
    Outcome outcome;
    for (int c = fgetc(pipe); c != EOF; c = fgetc(pipe)) outcome.output.push_back(static_cast<char>(c));
    const int status = pclose(pipe);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return outcome;
  }

  path root_;
};

TEST_F(Scripts, HelpNamesEveryOption) {
  const Outcome quickstart = run("tools/quickstart --help");
  EXPECT_EQ(quickstart.status, 0);
  EXPECT_THAT(quickstart.output, HasSubstr("--no-train"));
  const Outcome test = run("tools/test --help");
  EXPECT_EQ(test.status, 0);
  EXPECT_THAT(test.output, HasSubstr("--filter REGEX"));
}

TEST_F(Scripts, WrongUsageIsStatus2) {
  for (const char* words : {"--bogus", "--jobs", "--jobs 0", "--jobs=x", "--libtorch=", "extra"}) {
    const Outcome outcome = run(std::string("tools/quickstart ") + words);
    EXPECT_EQ(outcome.status, 2) << words;
    EXPECT_THAT(outcome.output, HasSubstr("(see tools/quickstart --help)")) << words;
  }
  EXPECT_EQ(run("tools/test --no-train").status, 2);
}

TEST_F(Scripts, WrongPlatform) {
  stand_in("uname", "[ \"$1\" = -s ] && echo Darwin || echo arm64");
  const Outcome outcome = run("tools/quickstart");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(
      outcome.output,
      "tools/quickstart: error: wrong platform: Linux on x86-64 is needed (Debian 12), this is Darwin on arm64\n");
}

TEST_F(Scripts, NoDiskSpace) {
  stand_in("df", "echo head; echo 'disk 9 9 17 9% /'");
  const Outcome outcome = run("tools/test");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("error: not enough disk space"));
  EXPECT_THAT(outcome.output, HasSubstr("17 MB are free"));
}

TEST_F(Scripts, MissingPackagesWithoutNetwork) {
  if (std::system(". /etc/os-release && [ \"$ID$VERSION_ID\" = debian12 ]") != 0) GTEST_SKIP() << "not Debian 12";
  stand_in("dpkg-query", "echo installed cmake; echo config-files ccache; exit 1");
  stand_in("apt-get", "echo \"E: Failed to fetch x.deb  Temporary failure resolving 'deb.debian.org'\"; exit 100");
  const Outcome outcome = run("tools/quickstart");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr(" ca-certificates ccache dataset-fashion-mnist "));  // all but cmake
  EXPECT_THAT(outcome.output, HasSubstr("error: apt-get update failed: no network"));
}

TEST_F(Scripts, LibTorchCannotBeDownloaded) {
  std::filesystem::remove(root_ / ".deps/libtorch.stamp");
  stand_in("python3", "[ \"$3\" = --version ] || { echo \"$REASON\"; exit 1; }");
  Outcome outcome =
      run("REASON='NewConnectionError: [Errno -3] Temporary failure in name resolution' tools/quickstart");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("error: downloading LibTorch failed: no network"));
  outcome = run("REASON='ERROR: THESE PACKAGES DO NOT MATCH THE HASHES' tools/quickstart");
  EXPECT_THAT(outcome.output, HasSubstr("its checksum differs"));
  outcome = run("REASON='OSError: [Errno 28] No space left on device' tools/quickstart");
  EXPECT_THAT(outcome.output, HasSubstr("the disk is full"));
}

TEST_F(Scripts, OnnxRuntimeCannotBeDownloaded) {
  std::filesystem::remove(root_ / ".deps/onnxruntime/libonnxruntime.so.1");
  stand_in("python3", "[ \"$3\" = --version ] || { echo 'Temporary failure in name resolution'; exit 1; }");
  const Outcome outcome = run("tools/test");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("error: downloading ONNX Runtime failed: no network"));
}

TEST_F(Scripts, OnnxRuntimeIsUnpackedOrGiven) {
  std::filesystem::remove_all(root_ / ".deps/onnxruntime");
  std::filesystem::remove(root_ / ".deps/onnxruntime.stamp");
  stand_in("python3", "while [ \"$1\" != -d ] && [ $# -gt 1 ]; do shift; done; touch \"$2/onnxruntime-1.whl\"");
  stand_in("unzip", "while [ \"$1\" != -d ]; do shift; done; mkdir \"$2\"; touch \"$2/libonnxruntime.so.1\"");
  cmake_builds();
  Outcome outcome = run("tools/quickstart --no-train");
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("ONNX Runtime: ready"));
  EXPECT_TRUE(std::filesystem::exists(root_ / ".deps/onnxruntime/libonnxruntime.so.1"));
  EXPECT_FALSE(std::filesystem::exists(root_ / ".deps/onnxruntime-download"));
  outcome = run("tools/quickstart --no-train");
  EXPECT_THAT(outcome.output, HasSubstr("ONNX Runtime: present"));
  outcome = run("QAT_ONNXRUNTIME=.deps/onnxruntime tools/quickstart --no-train");
  EXPECT_THAT(outcome.output, HasSubstr("ONNX Runtime: taken from "));
  outcome = run("QAT_ONNXRUNTIME=stand-ins tools/quickstart --no-train");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("expected libonnxruntime.so or its folder"));
}

TEST_F(Scripts, GivenLibTorchMustBeComplete) {
  Outcome outcome = run("tools/quickstart --libtorch stand-ins");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("stand-ins: expected include/ and lib/libtorch_cpu.so"));
  stand_in("ldd", "echo 'libcudart.so.13 => not found'");
  outcome = run("tools/quickstart --libtorch .deps");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("does not find libcudart.so.13 "));
}

TEST_F(Scripts, QuickstartBuildsAndResumesTheRun) {
  cmake_builds();
  const Outcome outcome = run("tools/quickstart --jobs 3");
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("\nqat train --config configs/quickstart.yaml --resume\n"));
  EXPECT_THAT(outcome.output, Not(HasSubstr("unexpected")));
  const std::vector<std::string> calls = read_lines(root_ / "cmake.txt");
  ASSERT_EQ(calls.size(), 2);
  EXPECT_THAT(calls[0], EndsWith("-D LibTorch_ROOT=" + std::filesystem::canonical(root_).string() + "/.deps"));
  EXPECT_EQ(calls[1], "cmake --build --preset release --parallel 3");
}

TEST_F(Scripts, QuickstartFailsWhenTheBuildFails) {
  stand_in("cmake", "echo 'x.cpp:1: error: no'; [ \"$1\" != --build ]");
  const Outcome outcome = run("tools/quickstart --no-train");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output,
              EndsWith("x.cpp:1: error: no\ntools/quickstart: error: building release failed; the whole log is "
                       "in build/log/build-release.log\n"));
}

TEST_F(Scripts, TestFailsWhenOneTestFails) {
  cmake_builds();
  stand_in("ctest", "echo \"100% tests passed, 0 tests failed out of 7\"");
  Outcome outcome = run("tools/test");
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("\nasan: 100% tests passed, 0 tests failed out of 7\ndev: 100%"));
  stand_in("ctest", "echo \"86% tests passed, 1 tests failed out of 7\"; [ \"$2\" != asan ]");
  outcome = run("tools/test");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.output, HasSubstr("\ndev: 86% tests passed"));  // the other tests ran all the same
  EXPECT_THAT(outcome.output, EndsWith("error: tests failed: asan (build/log/test-asan.log)\n"));
  EXPECT_EQ(run("tools/test --no-asan").status, 0);
}

}  // namespace
}  // namespace qat::tree
