#include "core/archive/pth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/archive/bytes.h"
#include "core/archive/pickle.h"
#include "core/archive/weights.h"
#include "core/archive/zip.h"
#include "tests/archive/golden_files.h"

namespace qat::archive {
namespace {

using std::string_literals::operator""s;
using testing::HasSubstr;
using testing::StartsWith;

// Pieces of pickles, spelled with the opcodes of CPython's pickletools.
std::string text(const std::string& value) { return "\x8c"s + static_cast<char>(value.size()) + value; }
std::string integer(uint8_t value) { return "K"s + static_cast<char>(value); }
std::string global(const std::string& module, const std::string& name) { return "c"s + module + "\n"s + name + "\n"; }
std::string storage(const std::string& key, uint8_t elements, const std::string& part = "",
                    const std::string& type = "FloatStorage") {
  return "("s + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(elements) + part + "tQ";
}
std::string tensor(const std::string& stored, const std::string& offset, const std::string& shape,
                   const std::string& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "("s + stored + offset + "("s + shape + "t("s + strides +
         "t\x89"s + global("collections", "OrderedDict") + ")RtR";
}
std::string pickle(const std::string& body) { return "\x80\x02"s + body + "."; }

std::string archive_of(const std::string& pickled, const std::vector<ZipRecord>& more) {
  std::vector<ZipRecord> records{{"m/data.pkl", pickled}};
  records.insert(records.end(), more.begin(), more.end());
  return write_zip(records);
}

std::string legacy(const std::string& object, const std::string& keys, const std::string& storages) {
  return pickle("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") + pickle("M\xe9\x03") + pickle("}") +
         pickle(object) + pickle(keys) + storages;
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::vector<float> values(const TensorView& view) {
  const std::span<const float> found = view.values<float>();
  return {found.begin(), found.end()};
}

std::string refusal(const std::string& bytes) {
  try {
    WeightsFile::parse(bytes, "f");
  } catch (const FileError& error) {
    return error.what();
  }
  return "accepted";
}

/// Of a zip file whose pickle is this, with a storage "0" of 12 bytes.
std::string refusal_of(const std::string& body) {
  return refusal(archive_of(pickle(body), {{"m/data/0", "0123456789ab"}}));
}

TEST(Pth, WrittenFilesComeBack) {
  const std::vector<float> weight{1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> count{-7};
  const std::vector<uint16_t> half{0x3c00, 0xc000};
  const std::vector<TensorView> tensors{
      TensorView::of<float>("conv.weight", {2, 3}, weight), TensorView::of<int64_t>("count", {}, count),
      TensorView::of<float>("empty", {0, 4}, {}),           {"half", "F16", {2}, half.data(), 4},
      {"brain", "BF16", {1, 2, 1}, half.data(), 4},         {"flags", "BOOL", {3}, "\0\1\1", 3}};
  const std::string bytes = write_pth(tensors);
  EXPECT_EQ(bytes, write_pth(tensors));
  const PthFile file = PthFile::parse(bytes, "f");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& found = file.tensors()[i];
    EXPECT_EQ(found.name, tensors[i].name);
    EXPECT_EQ(found.dtype, tensors[i].dtype);
    EXPECT_EQ(found.shape, tensors[i].shape);
    ASSERT_EQ(found.bytes, tensors[i].bytes);
    if (found.bytes > 0) {
      EXPECT_EQ(std::memcmp(found.data, tensors[i].data, found.bytes), 0) << found.name;
    }
  }
}

TEST(Pth, WriterRefusesWhatDoesNotFit) {
  const std::vector<float> one{1};
  const TensorView a = TensorView::of<float>("a", {1}, one);
  EXPECT_THROW(write_pth(std::vector{a, a}), Error);
  EXPECT_THROW(write_pth(std::vector{TensorView::of<float>("a", {2}, one)}), Error);
  EXPECT_THROW(write_pth(std::vector{TensorView{"a", "F31", {1}, one.data(), 4}}), Error);
}

TEST(Pth, EveryGoldenComesBackFromOurWriter) {
  int files = 0;
  for (const golden::Case& c : golden::cases()) {
    if (c.expected.at("action") != "load") continue;
    const WeightsFile file = WeightsFile::open(c.path);
    const PthFile again = PthFile::parse(write_pth(file.tensors()), "again");
    ASSERT_EQ(again.tensors().size(), file.tensors().size()) << c.path;
    for (size_t i = 0; i < again.tensors().size(); ++i) {
      const TensorView& a = file.tensors()[i];
      const TensorView& b = again.tensors()[i];
      EXPECT_TRUE(a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes) << a.name;
      EXPECT_TRUE(a.bytes == 0 || std::memcmp(a.data, b.data, a.bytes) == 0) << a.name;
    }
    ++files;
  }
  EXPECT_GT(files, 0);
}

// [[1, 2, 3], [4, 5, 6]] in memory; its transpose, and its last row by offset.
TEST(Pth, ViewsAreMadeRowMajor) {
  const std::string stored = storage("0", 6);
  const std::string body = "}("s + text("t") +
                           tensor(stored, integer(0), integer(3) + integer(2), integer(1) + integer(3)) + text("row") +
                           tensor(stored, integer(3), integer(3), integer(1)) + "u";
  const PthFile file = PthFile::parse(archive_of(pickle(body), {{"m/data/0", floats({1, 2, 3, 4, 5, 6})}}), "f");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(values(file.tensors()[0]), (std::vector<float>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(values(file.tensors()[1]), (std::vector<float>{4, 5, 6}));
}

TEST(Pth, BigEndianFilesAreTurned) {
  const std::string body = "}"s + text("x") + tensor(storage("0", 2), integer(0), integer(2), integer(1)) + "s";
  const std::string record = "\x3f\x80\x00\x00\xc0\x00\x00\x00"s;  // 1 and -2
  const PthFile file = PthFile::parse(archive_of(pickle(body), {{"m/data/0", record}, {"m/byteorder", "big"}}), "f");
  EXPECT_EQ(values(file.tensors().at(0)), (std::vector<float>{1, -2}));
  EXPECT_THAT(refusal(archive_of(pickle("}"), {{"m/byteorder", "middle"}})), HasSubstr("its byteorder is 'middle'"));
}

// A part of a storage: elements 1 to 2 of four, of which the tensor takes the second.
TEST(Pth, LegacyPartsOfStorages) {
  const std::string part = text("v") + integer(1) + integer(2) + "\x87";
  const std::string keys = "]"s + text("k") + "a";
  const std::string data = "\4\0\0\0\0\0\0\0"s + floats({10, 20, 30, 40});
  const auto file = [&](uint8_t offset) {
    return legacy("}"s + text("x") + tensor(storage("k", 4, part), integer(offset), integer(1), integer(1)) + "s", keys,
                  data);
  };
  EXPECT_EQ(values(PthFile::parse(file(1), "f").tensors().at(0)), std::vector<float>{30});
  EXPECT_THAT(refusal(file(2)), HasSubstr("'x' F32 [1] reaches beyond the 2 elements of its storage"));
}

TEST(Pth, LegacyStoragesAreChecked) {
  const std::string object = "}"s + text("x") + tensor(storage("k", 1), integer(0), integer(1), integer(1)) + "s";
  const std::string keys = "]"s + text("k") + "a";
  const std::string one = "\1\0\0\0\0\0\0\0"s;
  EXPECT_EQ(refusal(legacy(object, keys, one + floats({1}))), "accepted");
  EXPECT_THAT(refusal(legacy(object, keys, one + "123")),
              HasSubstr("cut short: storage 'k' needs 4 bytes, 3 are left"));
  EXPECT_THAT(refusal(legacy(object, keys, "\2\0\0\0\0\0\0\0"s + floats({1}))),
              HasSubstr("another number of elements"));
  EXPECT_THAT(refusal(legacy(object, "]", "")), HasSubstr("it has 0 of 1 storages"));
  EXPECT_THAT(refusal(legacy(object, "]("s + text("k") + text("k") + "e", one + floats({1}) + one + floats({1}))),
              HasSubstr("storage 'k' comes twice"));
  EXPECT_THAT(refusal(legacy(object, "]"s + text("j") + "a", "")), HasSubstr("a storage 'j' of unknown type"));
  EXPECT_THAT(refusal(pickle("}")), HasSubstr("a pickle that torch.save did not write"));
}

TEST(Pth, OnlyListedNamesAreUnderstood) {
  EXPECT_THAT(refusal_of("}"s + text("x") + global("os", "system") + text("true") + "\x85Rs"),
              HasSubstr("refers to 'os.system', which is refused"));
  EXPECT_THAT(refusal_of("}"s + text("x") + text("torch") + text("_utils._rebuild_tensor_v2") + "\x93s"),
              HasSubstr("refers to 'torch._utils._rebuild_tensor_v2', which is refused"));
  EXPECT_THAT(refusal_of("}"s + text("x") + global("torch", "load") + "s"), HasSubstr("'torch.load'"));
  EXPECT_THAT(refusal_of(global("torchvision.models.resnet", "ResNet") + ")\x81}b"),
              HasSubstr("looks like a pickled object (a whole module?) made by 'torchvision.models.resnet.ResNet'"));
  EXPECT_THAT(refusal_of("("s + text("module") + global("collections", "OrderedDict") + "tQ"),
              HasSubstr("looks like a pickled module"));
  EXPECT_THAT(refusal_of(global("torch", "FloatStorage") + ")R"), HasSubstr("a call of torch.FloatStorage"));
  EXPECT_THAT(refusal_of(global("torch", "Size") + ")\x81"), HasSubstr("a new torch.Size"));
  EXPECT_THAT(refusal_of(text("x") + ")R"), HasSubstr("a call of what is no name"));
  EXPECT_THAT(refusal_of("(i__main__\nA\n"), HasSubstr("opcode 0x69"));  // INST
}

TEST(Pth, ContainersOfOptimizersAreReadOver) {
  EXPECT_EQ(refusal_of("}"s + text("milestones") + global("collections", "Counter") + "}"s + integer(30) + integer(1) +
                       "s\x85Rs"),
            "accepted");
  EXPECT_EQ(refusal_of("}"s + text("shape") + global("torch", "Size") + integer(3) + "\x85\x85Rs"), "accepted");
  EXPECT_EQ(refusal_of("}"s + text("args") + global("argparse", "Namespace") + ")\x81}"s + text("lr") + "Nsbs"),
            "accepted");
  const PthFile ordered =
      PthFile::parse(archive_of(pickle(global("collections", "OrderedDict") + "]]"s + text("x") + "a"s +
                                       tensor(storage("0", 1), integer(0), integer(1), integer(1)) + "aa\x85R"),
                                {{"m/data/0", floats({5})}}),
                     "f");
  EXPECT_EQ(ordered.tensors().at(0).name, "x");
}

TEST(Pth, BrokenPicklesAreRefused) {
  for (const std::string& body : {""s,
                                  "}s"s,
                                  "a"s,
                                  "e"s,
                                  "t"s,
                                  "q\1"s,
                                  "h\1"s,
                                  "j\1\2\3\4"s,
                                  "R"s,
                                  "b"s,
                                  "Q"s,
                                  "\x85"s,
                                  "]]"s,
                                  "("s,
                                  "X\xff\xff\xff\x7f"s,
                                  "\x8d\xff\xff\xff\xff\xff\xff\xff\xff"s,
                                  "\x8b\xff\xff\xff\xff"s,
                                  "\x95\xff\xff\xff\xff\xff\xff\xff\xff}"s,
                                  "}(K\1u"s,
                                  "](K\1\x94s"s,
                                  "\x93"s,
                                  "ccollections"s,
                                  "\x80\x02}"s,
                                  "}K\1b"s,
                                  "}}b"s}) {
    EXPECT_THAT(refusal_of(body), HasSubstr("not a sound pickle at byte ")) << testing::PrintToString(body);
  }
  EXPECT_THAT(refusal(archive_of("\x80\x02", {})), HasSubstr("it is cut short"));
  EXPECT_THAT(refusal(archive_of("\x80\x01}.", {})), HasSubstr("expected protocol 2 to 5, found 1"));
}

TEST(Pth, GeometryIsCheckedWithoutOverflow) {
  const std::string three = storage("0", 3);
  const auto of = [&](const std::string& offset, const std::string& shape, const std::string& strides) {
    return refusal_of("}"s + text("x") + tensor(three, offset, shape, strides) + "s");
  };
  const std::string zero = integer(0), one = integer(1);
  const std::string huge = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", minus = "J\xff\xff\xff\xff",
                    big = "\x8a\x05\0\0\0\0\1"s;
  EXPECT_EQ(of(zero, integer(3), one), "accepted");
  EXPECT_EQ(of(zero, one + integer(3), huge + one), "accepted");  // nothing moves along a size of 1
  EXPECT_EQ(of(zero, zero + integer(200), one + one), "accepted");
  EXPECT_THAT(of(one, integer(3), one), HasSubstr("'x' F32 [3] reaches beyond the 3 elements of its storage"));
  EXPECT_THAT(of(zero, integer(2), integer(3)), HasSubstr("reaches beyond"));
  EXPECT_THAT(of(huge, integer(3), one), HasSubstr("reaches beyond"));
  EXPECT_THAT(of(zero, huge, huge), HasSubstr("reaches beyond"));
  EXPECT_THAT(of(zero, integer(2) + integer(2), huge + huge), HasSubstr("reaches beyond"));
  EXPECT_THAT(of(zero, big + big, zero + zero), HasSubstr("reaches beyond"));        // 2^64 elements
  EXPECT_THAT(of(zero, big, zero), HasSubstr("its contents would need more than"));  // 16 GiB of one element
  EXPECT_THAT(of(minus, integer(3), one), HasSubstr("impossible shape, stride or offset"));
  EXPECT_THAT(of(zero, minus, one), HasSubstr("impossible shape, stride or offset"));
  EXPECT_THAT(of(zero, integer(3), minus), HasSubstr("impossible shape, stride or offset"));
  EXPECT_THAT(of(zero, integer(3), one + one), HasSubstr("impossible shape, stride or offset"));
  EXPECT_THAT(refusal_of("}"s + text("x") + tensor(storage("0", 4), zero, one, one) + "s"),
              HasSubstr("storage '0' needs 16 bytes, its record has 12"));
  EXPECT_THAT(refusal_of("}"s + text("x") + tensor(storage("1", 1), zero, one, one) + "s"),
              HasSubstr("without the record 'm/data/1'"));
  EXPECT_THAT(refusal_of("}("s + text("x") + tensor(three, zero, one, one) + text("y") +
                         tensor(storage("0", 3, "", "IntStorage"), zero, one, one) + "u"),
              HasSubstr("storage '0' has two types or sizes"));
}

TEST(Pth, NestingAndSharingAreBounded) {
  // A list of 100000 lists, a list that holds itself, and lists that hold the one before twice: 2^60 leaves.
  EXPECT_THAT(refusal_of(std::string(100000, ']') + std::string(99999, 'a')), HasSubstr("nested more than 64 deep"));
  EXPECT_THAT(refusal_of("]\x94h"s + "\0"s + "a"), HasSubstr("nested more than 64 deep"));
  std::string doubling = "(]\x94";
  for (char i = 0; i < 60; ++i) doubling += "](h"s + i + "h"s + i + "e\x94";
  EXPECT_THAT(refusal_of(doubling + "t"), HasSubstr("its contents would need more than"));
  // 2000 names for one storage of 100 KB.
  std::string many = "}(";
  const std::string bytes =
      "("s + text("storage") + global("torch", "ByteStorage") + text("0") + text("cpu") + "J\xa0\x86\1\0"s + "tQ";
  for (int i = 0; i < 2000; ++i)
    many += text(std::to_string(i)) + tensor(bytes, integer(0), "J\xa0\x86\1\0"s, integer(1));
  EXPECT_THAT(refusal(archive_of(pickle(many + "u"), {{"m/data/0", std::string(100000, 'x')}})),
              HasSubstr("its contents would need more than"));
}

TEST(Zip, DamageIsSeen) {
  const std::string sound = archive_of(pickle("}"), {{"m/data/0", "0123"}});
  EXPECT_EQ(refusal(sound), "accepted");
  std::string bytes = sound;
  bytes[bytes.find("\x80\x02}.") + 2] = ']';
  EXPECT_THAT(refusal(bytes), HasSubstr("record 'm/data.pkl' is damaged: its CRC-32 is"));
  for (size_t size = 4; size < sound.size(); ++size) ASSERT_NE(refusal(sound.substr(0, size)), "accepted") << size;
  EXPECT_THAT(refusal(sound.substr(0, 100)), HasSubstr("cut short: it has no central directory"));

  const size_t entry = sound.find("PK\1\2");
  const auto patched = [&](size_t at, const std::string& with) {
    return refusal(std::string(sound).replace(at, with.size(), with));
  };
  EXPECT_THAT(patched(entry + 10, "\x08"), HasSubstr("'m/data.pkl' is compressed"));
  EXPECT_THAT(patched(entry + 8, "\x01"), HasSubstr("'m/data.pkl' is encrypted"));
  EXPECT_THAT(patched(entry + 42, "\xf0\xff\xff\x7f"), HasSubstr("'m/data.pkl' lies outside the file"));
  EXPECT_THAT(patched(entry + 20, "\xf0\xff\xff\x7f\xf0\xff\xff\x7f"), HasSubstr("'m/data.pkl' lies outside the file"));
  EXPECT_THAT(patched(entry + 28, "\xff\xff"), HasSubstr("record 0 of its directory is cut short"));
  EXPECT_THAT(patched(entry + 24, "\x03"), HasSubstr("'m/data.pkl' has two sizes"));
  const size_t end = sound.size() - 22;
  EXPECT_THAT(patched(end + 10, "\xfe\xff"), HasSubstr("cannot hold 65534 records"));
  EXPECT_THAT(patched(end + 10, "\xff\xff"), HasSubstr("its zip64 directory is missing"));
  EXPECT_THAT(patched(end + 16, "\xf0\xff\xff\x7f"), HasSubstr("is outside the"));
  EXPECT_THAT(patched(end + 4, "\1"), HasSubstr("split over several files"));
  EXPECT_THAT(refusal(write_zip(std::vector<ZipRecord>{{"m/data.pkl", "a"}, {"m/data.pkl", "b"}})),
              HasSubstr("'m/data.pkl' comes twice"));
}

TEST(Zip, DirectoryOf64Bits) {
  std::string bytes = archive_of(pickle("}"), {});
  const size_t end = bytes.size() - 22;
  const uint64_t size = get_number(bytes, end + 12, 4), offset = get_number(bytes, end + 16, 4);
  std::string tail = "PK\6\6";
  for (const uint64_t field :
       {uint64_t{44}, uint64_t{45 | 45 << 16}, uint64_t{0}, uint64_t{1}, uint64_t{1}, size, offset}) {
    put_number(tail, field, field == (45 | 45 << 16) ? 4 : 8);
  }
  tail += "PK\6\7";
  put_number(tail, 0, 4);
  put_number(tail, end, 8);
  put_number(tail, 1, 4);
  std::string end_record = bytes.substr(end);
  end_record.replace(8, 12, std::string(12, '\xff'));
  EXPECT_EQ(refusal(bytes.substr(0, end) + tail + end_record), "accepted");
  EXPECT_THAT(refusal(bytes.substr(0, end) + end_record), HasSubstr("its zip64 directory is missing"));
}

TEST(WeightsFile, SaysWhatOtherFilesLookLike) {
  EXPECT_THAT(refusal(""), StartsWith("f: looks like an empty file"));
  EXPECT_THAT(refusal("\n<!DOCTYPE html><html>"), HasSubstr("a web page"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:0"), HasSubstr("a Git LFS pointer"));
  EXPECT_THAT(refusal("\x1f\x8b\x08"), HasSubstr("a gzip file"));
  EXPECT_THAT(refusal("conv1.weight 1 2 3"), HasSubstr("a text file"));
  EXPECT_THAT(refusal(std::string(257, '\0') + "ustar"), HasSubstr("a tar file"));
  EXPECT_THAT(refusal("\x08\x07"), HasSubstr("neither a zip archive nor a pickle"));
  EXPECT_THAT(refusal(write_zip(std::vector<ZipRecord>{{"word/document.xml", "<x/>"}})),
              HasSubstr("no file of torch.save"));
  EXPECT_THAT(refusal(archive_of(pickle("}"), {{"m/constants.pkl", pickle(")")}})), HasSubstr("a TorchScript archive"));
  EXPECT_THROW(WeightsFile::open(testing::TempDir() + "/no_such.pth"), FileError);
}

std::vector<std::string> state_names(const std::vector<std::string>& stored) {
  std::vector<TensorView> tensors;
  for (const std::string& name : stored) tensors.push_back(TensorView::of<float>(name, {0}, {}));
  std::vector<std::string> names;
  for (const TensorView& tensor : WeightsFile::parse(write_pth(tensors), "f").state_dict())
    names.push_back(tensor.name);
  return names;
}

TEST(WeightsFile, FindsTheNetworkInACheckpoint) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(state_names({"a", "module.b"}), (Names{"a", "module.b"}));
  EXPECT_EQ(state_names({"module.a", "module.b"}), (Names{"a", "b"}));
  EXPECT_EQ(state_names({"best", "model/a", "optimizer/state/0/m"}), (Names{"a"}));
  EXPECT_EQ(state_names({"state_dict/module.a", "model/b"}), (Names{"a"}));
  EXPECT_EQ(state_names({"weights/a", "weights/b"}), (Names{"a", "b"}));
  EXPECT_EQ(state_names({"a", "extra/b"}), (Names{"a"}));
  EXPECT_THROW(state_names({"one/a", "two/b"}), FileError);
  const std::vector<float> none;
  const std::vector<TensorView> slash{TensorView::of<float>("x/y", {0}, none)};
  EXPECT_EQ(WeightsFile::parse(write_safetensors(slash, {}), "f").state_dict().at(0).name, "x/y");
}

// Golden layouts: plain, DataParallel, nested with prefix, nested without, all of the same network.
TEST(WeightsFile, GoldenLayoutsGiveOneNetwork) {
  const std::string folder = QAT_SOURCE_DIR "/tests/goldens/checkpoints/";
  const auto names = [&](const std::string& file) {
    std::vector<std::string> names;
    for (const TensorView& tensor : WeightsFile::open(folder + file).state_dict()) names.push_back(tensor.name);
    std::ranges::sort(names);
    return names;
  };
  const std::vector<std::string> expected = names("tiny_zip.pth");
  EXPECT_EQ(expected.size(), 38u);
  for (const char* file : {"tiny_legacy.pth", "tiny_dataparallel.pth", "tiny_imagenet_style.pth", "tiny_checkpoint.pth",
                           "checkpoint_with_namespace.pth", "tiny_proto4.pth", "tiny.safetensors"}) {
    EXPECT_EQ(names(file), expected) << file;
  }
}

}  // namespace
}  // namespace qat::archive
