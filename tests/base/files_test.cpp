#include "core/base/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

/// An own empty folder, removed with its content.
class FilesTest : public testing::Test {
 protected:
  FilesTest() : folder_(testing::TempDir() + "qat_files_XXXXXX") {
    if (mkdtemp(folder_.data()) == nullptr) throw Error("no temporary folder");
  }
  ~FilesTest() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::vector<std::string> listing() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename());
    return names;
  }

  std::string folder_;
};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

/// While it lives, writing a file beyond `bytes` fails as a full disk does: write() returns an error.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int) = nullptr;
};

TEST_F(FilesTest, WritesAndReadsBytes) {
  const std::string bytes("a\0b\n\xff", 5);
  write_file_atomic(path("x"), bytes);
  EXPECT_EQ(read_file(path("x")), bytes);
  EXPECT_THAT(listing(), testing::ElementsAre("x"));
}

TEST_F(FilesTest, WritesPiecesInOrderAndReplaces) {
  write_file_atomic(path("x"), "a much longer old content");
  const std::string_view pieces[] = {"one", "", "two"};
  write_file_atomic(path("x"), pieces);
  EXPECT_EQ(read_file(path("x")), "onetwo");
}

TEST_F(FilesTest, ReadsAnEmptyFileAndManyBlocks) {
  write_file_atomic(path("empty"), "");
  EXPECT_EQ(read_file(path("empty")), "");
  std::string large(200001, 'x');
  large[200000] = 'y';
  write_file_atomic(path("large"), large);
  EXPECT_EQ(read_file(path("large")), large);
}

TEST_F(FilesTest, ReadsAPipe) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(write(ends[1], "piped", 5), 5);
  close(ends[1]);
  EXPECT_EQ(read_file("/dev/fd/" + std::to_string(ends[0])), "piped");
  close(ends[0]);
}

TEST_F(FilesTest, ReadErrorsNameThePathAndTheCause) {
  EXPECT_EQ(message_of([&] { read_file(path("none")); }), path("none") + ": cannot open: No such file or directory");
  EXPECT_EQ(message_of([&] { read_file(folder_); }), folder_ + ": cannot read: Is a directory");
  EXPECT_EQ(message_of([] { read_file("/dev/zero"); }), "/dev/zero: cannot read: neither a regular file nor a pipe");
}

TEST_F(FilesTest, ReadHasALimit) {
  write_file_atomic(path("x"), "12345");
  EXPECT_EQ(read_file(path("x"), 5), "12345");
  EXPECT_EQ(message_of([&] { read_file(path("x"), 4); }),
            path("x") + ": cannot read: longer than the limit of 4 bytes");
}

TEST_F(FilesTest, FullDiskKeepsTheOldFile) {
  write_file_atomic(path("x"), "old");
  std::string message;
  {
    const FileSizeLimit limit(1000);
    message = message_of([&] { write_file_atomic(path("x"), std::string(5000, 'n')); });
  }
  EXPECT_EQ(message, path("x") + ": cannot write: File too large");
  EXPECT_EQ(read_file(path("x")), "old");
  EXPECT_THAT(listing(), testing::ElementsAre("x"));
}

TEST_F(FilesTest, PathUnderAFileIsRefused) {
  write_file_atomic(path("x"), "old");
  EXPECT_EQ(message_of([&] { write_file_atomic(path("x/y"), "new"); }),
            path("x/y") + ": cannot create a file in its folder: Not a directory");
  EXPECT_EQ(message_of([&] { make_directories(path("x/y")); }),
            path("x/y") + ": cannot create the folder: Not a directory");
  EXPECT_EQ(message_of([&] { make_directories(path("x")); }),
            path("x") + ": cannot create the folder: Not a directory");
  EXPECT_EQ(read_file(path("x")), "old");
}

TEST_F(FilesTest, MissingFolderIsRefused) {
  EXPECT_EQ(message_of([&] { write_file_atomic(path("none/y"), "new"); }),
            path("none/y") + ": cannot create a file in its folder: No such file or directory");
}

TEST_F(FilesTest, FailedRenameRemovesTheTemporary) {
  make_directories(path("folder"));
  EXPECT_EQ(message_of([&] { write_file_atomic(path("folder"), "new"); }),
            path("folder") + ": cannot replace: Is a directory");
  EXPECT_THAT(listing(), testing::ElementsAre("folder"));
}

TEST_F(FilesTest, ForbiddenFolderIsRefused) {
  if (geteuid() == 0) GTEST_SKIP() << "permissions do not bind the superuser";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(message_of([&] { write_file_atomic(path("x"), "new"); }),
            path("x") + ": cannot create a file in its folder: Permission denied");
  fs::permissions(folder_, fs::perms::owner_all);
}

TEST_F(FilesTest, MakesNestedFoldersAndIsContentWithOldOnes) {
  make_directories(path("a/b/c"));
  make_directories(path("a/b/c"));
  EXPECT_TRUE(fs::is_directory(path("a/b/c")));
}

TEST_F(FilesTest, WritesARelativePath) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  write_file_atomic("x", "here");
  fs::current_path(before);
  EXPECT_EQ(read_file(path("x")), "here");
}

// A reader sees all old or all new bytes, never a mixture or nothing.
TEST_F(FilesTest, ReadersNeverSeeHalfAFile) {
  const std::string contents[] = {std::string(300000, 'a'), std::string(200000, 'b')};
  write_file_atomic(path("x"), contents[0]);
  std::thread writer([&] {
    for (int i = 1; i <= 20; ++i) write_file_atomic(path("x"), contents[i % 2]);
  });
  int strange = 0;
  for (int i = 0; i < 200; ++i) {
    const std::string seen = read_file(path("x"));
    strange += seen != contents[0] && seen != contents[1];
  }
  writer.join();
  EXPECT_EQ(strange, 0);
}

// Published test vectors of FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/).
TEST(HashString, MatchesPublishedVectors) {
  EXPECT_EQ(hash_string(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash_string("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash_string("foobar"), 0x85944171f73967e8u);
}

TEST(KeepFile, TheOldBytesStayUnderTheOtherName) {
  const std::string folder = testing::TempDir() + "/qat_keep_file";
  std::filesystem::remove_all(folder);
  make_directories(folder);
  const std::string path = folder + "/a", name = folder + "/b";
  write_file_atomic(path, "one");
  keep_file(path, name);
  EXPECT_EQ(read_file(name), "one");
  keep_file(path, name);  // both names of one file already
  write_file_atomic(path, "two");
  EXPECT_EQ(read_file(name), "one");
  keep_file(path, name);
  EXPECT_EQ(read_file(name), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 2);
  EXPECT_THROW(keep_file(folder + "/absent", name), FileError);
  EXPECT_THROW(keep_file(path, folder + "/nowhere/b"), FileError);
  EXPECT_EQ(read_file(name), "two");
}

}  // namespace
}  // namespace qat
