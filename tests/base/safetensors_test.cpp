#include "core/base/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/files.h"

namespace qat {
namespace {

const std::string kGoldens = QAT_SOURCE_DIR "/tests/goldens/checkpoints/";

std::string with_length(uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + rest;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, 'd'));
}

std::string refusal(const std::string& bytes) {
  try {
    SafetensorsFile::parse(bytes, "f");
  } catch (const FileError& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal_of(const std::string& header, size_t data_bytes) { return refusal(file_of(header, data_bytes)); }

/// IEEE half precision, from its definition.
double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24));
}

template <class T>
T load(const void* data, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + i * sizeof(T), sizeof(T));
  return value;
}

double element(const TensorView& t, size_t i) {
  if (t.dtype == "F64") return load<double>(t.data, i);
  if (t.dtype == "F32") return load<float>(t.data, i);
  if (t.dtype == "F16") return half(load<uint16_t>(t.data, i));
  if (t.dtype == "I64") return static_cast<double>(load<int64_t>(t.data, i));
  if (t.dtype == "I32") return load<int32_t>(t.data, i);
  if (t.dtype == "I16") return load<int16_t>(t.data, i);
  if (t.dtype == "I8") return load<int8_t>(t.data, i);
  if (t.dtype == "BF16") {
    const uint32_t bits = uint32_t{load<uint16_t>(t.data, i)} << 16;
    return load<float>(&bits, 0);
  }
  return load<uint8_t>(t.data, i);  // U8, BOOL
}

double expected_number(const nlohmann::json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>();
  const std::string text = value.get<std::string>();
  return text == "nan" ? NAN : text == "inf" ? INFINITY : text == "-inf" ? -INFINITY : std::stod(text);
}

void expect_number(double found, const nlohmann::json& expected, const std::string& where) {
  const double value = expected_number(expected);
  if (std::isnan(value)) {
    EXPECT_TRUE(std::isnan(found)) << where;
  } else if (std::isinf(value)) {
    EXPECT_EQ(found, value) << where;
  } else {
    EXPECT_NEAR(found, value, 1e-8 * std::abs(value) + 1e-30) << where;
  }
}

const std::map<std::string, std::string> kTorchNames = {
    {"F64", "float64"}, {"F32", "float32"}, {"F16", "float16"}, {"BF16", "bfloat16"}, {"I64", "int64"},
    {"I32", "int32"},   {"I16", "int16"},   {"I8", "int8"},     {"U8", "uint8"},      {"BOOL", "bool"}};

TEST(Safetensors, Goldens) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kGoldens)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    const std::string path = entry.path();
    const nlohmann::json expected = nlohmann::json::parse(read_file(path + ".expected.json"));
    SCOPED_TRACE(path);
    if (expected.at("action") == "refuse") {
      EXPECT_THROW(SafetensorsFile::open(path), FileError);
      continue;
    }
    const SafetensorsFile file = SafetensorsFile::open(path);
    ASSERT_EQ(file.tensors().size(), expected.at("tensors").size());
    for (const nlohmann::json& reference : expected.at("tensors")) {
      const TensorView& tensor = file.at(reference.at("name"));
      EXPECT_EQ(kTorchNames.at(tensor.dtype), reference.at("dtype"));
      EXPECT_EQ(tensor.shape, reference.at("shape").get<std::vector<int64_t>>());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % dtype_bytes(tensor.dtype), 0u);
      const nlohmann::json& first = reference.at("first");
      for (size_t i = 0; i < first.size(); ++i) expect_number(element(tensor, i), first[i], tensor.name);
      double sum = 0.0;
      for (size_t i = 0; i < tensor.bytes / dtype_bytes(tensor.dtype); ++i) sum += element(tensor, i);
      const double exact = expected_number(reference.at("sum"));
      // Sums cancel: 9 digits of the sum mean little beside the terms'.
      if (std::isfinite(exact)) {
        EXPECT_NEAR(sum, exact, 1e-7 * (1 + std::abs(exact))) << tensor.name;
      }
    }
    if (expected.contains("metadata")) {
      EXPECT_EQ(file.metadata(), (expected.at("metadata").get<std::map<std::string, std::string>>()));
    }
  }
  EXPECT_GE(files, 6);
}

TEST(Safetensors, HostileFilesNameTheirCause) {
  const auto cause = [](const std::string& name) { return refusal(read_file(kGoldens + name + ".safetensors")); };
  EXPECT_EQ(cause("st_header_len_huge"),
            "f: not sound safetensors: header length 9223372036854775807 is beyond the file's 224 bytes");
  EXPECT_EQ(cause("st_header_past_eof"),
            "f: not sound safetensors: header length 10000 is beyond the file's 224 bytes");
  EXPECT_EQ(cause("st_out_of_range"),
            "f: not sound safetensors: 'b' has data_offsets [48, 144] outside the 96 data bytes");
  EXPECT_EQ(cause("st_overlap"), "f: not sound safetensors: 'b' overlaps another tensor at data byte 24");
}

TEST(Safetensors, RefusesBrokenHeaders) {
  const std::string prefix = "f: not sound safetensors: ";
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  EXPECT_EQ(refusal(""), prefix + "0 bytes, too short for a header");
  EXPECT_EQ(refusal("1234567"), prefix + "7 bytes, too short for a header");
  EXPECT_EQ(refusal(with_length(0, "")), prefix + "the header does not start with '{'");
  EXPECT_EQ(refusal_of("[]", 0), prefix + "the header does not start with '{'");
  EXPECT_EQ(refusal_of("{" + a, 8), prefix + "not valid JSON at byte 54");
  EXPECT_EQ(refusal_of("{" + a + "}x", 8), prefix + "not valid JSON at byte 55");
  EXPECT_EQ(refusal_of("{" + a + "," + a + "}", 8), prefix + "'a' overlaps another tensor at data byte 0");
  const std::string empty_a = R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  EXPECT_EQ(refusal_of("{" + empty_a + "," + empty_a + "}", 0), prefix + "duplicate name 'a'");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has dtype twice");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2]}})", 8),
            prefix + "'a' lacks one of dtype, shape, data_offsets");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has the unknown dtype 'F31'");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has 8 bytes, which is not F32 [3]");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8),
            prefix + "'a' has data_offsets [8, 0] outside the 8 data bytes");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8),
            prefix + "'a' has 3 data_offsets, expected 2");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})", 9),
            prefix + "'a' leaves a hole before it at data byte 1");
  EXPECT_EQ(refusal_of("{" + a + "}", 9), prefix + "the tensors cover 8 of 9 data bytes");
  EXPECT_EQ(refusal_of("{}", 1), prefix + "the tensors cover 0 of 1 data bytes");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", 8),
            prefix + "'a' has an unknown key 'more'");
  EXPECT_EQ(refusal_of(R"({"__metadata__":{"k":1}})", 0), prefix + "__metadata__ has a number where none belongs");
  EXPECT_EQ(refusal_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0), prefix + "duplicate metadata key 'k'");
  EXPECT_EQ(refusal_of(R"({"__metadata__":{},"__metadata__":{}})", 0), prefix + "duplicate __metadata__");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has a negative number where none belongs");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has a number with a fraction where none belongs");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has a list where none belongs");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":{},"shape":[2],"data_offsets":[0,8]}})", 8),
            prefix + "'a' has an object where none belongs");
  for (const char* scalar : {"1", "null", "true", "\"x\"", "[1]"}) {
    EXPECT_THAT(refusal_of(std::string("{\"a\":") + scalar + "}", 0), testing::StartsWith(prefix + "'a' has "))
        << scalar;
  }
}

// 2^32 * 2^32 elements wrap around to 0 bytes in 64 bits, 2^62 * 4 bytes too.
TEST(Safetensors, SizesThatOverflowAreRefused) {
  for (const char* shape : {"4294967296,4294967296", "4611686018427387904", "9223372036854775808",
                            "4611686018427387904,4611686018427387904,0"}) {
    const std::string header = fmt::format(R"({{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,0]}}}})", shape);
    EXPECT_NE(refusal_of(header, 0), "accepted") << shape;
  }
}

TEST(Safetensors, DeepNestingIsRefused) {
  const std::string header = "{\"a\":" + std::string(100000, '[');
  EXPECT_EQ(refusal_of(header, 0), "f: not sound safetensors: 'a' has a list where none belongs");
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const float values[] = {1.0f, 2.0f};
  const TensorView tensor = TensorView::of<float>("a", {2}, values);
  const std::string bytes = write_safetensors({&tensor, 1}, {{"k", "v"}});
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(refusal(bytes.substr(0, length)), "accepted") << length;
  }
  EXPECT_EQ(refusal(bytes), "accepted");
  EXPECT_NE(refusal(bytes + "x"), "accepted");
}

// Any byte of the header may be anything: an error or a file, never a crash (the sanitizers watch).
TEST(Safetensors, DamagedHeadersNeverCrash) {
  const std::string good = read_file(kGoldens + "dtypes.safetensors");
  int accepted = 0, refused = 0;
  for (size_t i = 0; i < 600; ++i) {
    for (const char damage : {'\0', '9', '"', '}', '\xff'}) {
      std::string bad = good;
      bad[i] = damage;
      (refusal(bad) == "accepted" ? accepted : refused) += 1;
    }
  }
  EXPECT_EQ(accepted + refused, 3000);
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, WritesTheFormat) {
  const int8_t codes[] = {-1, 2, 3};
  const float scale[] = {0.5f};
  const TensorView tensors[] = {TensorView::of<int8_t>("w", {3, 1}, codes), TensorView::of<float>("s", {}, scale)};
  const std::string header = R"({"__metadata__":{"a":"1","b":"\"x\""},)"
                             R"("w":{"dtype":"I8","shape":[3,1],"data_offsets":[0,3]},)"
                             R"("s":{"dtype":"F32","shape":[],"data_offsets":[3,7]}})";
  std::string padded = header;
  while (padded.size() % 8 != 0) padded += ' ';
  const std::string expected = with_length(padded.size(), padded) + std::string("\xff\x02\x03\0\0\0\x3f", 7);
  EXPECT_EQ(write_safetensors(tensors, {{"b", "\"x\""}, {"a", "1"}}), expected);
}

TEST(Safetensors, RoundTripsThroughAFileAndAMove) {
  const int8_t codes[] = {-128, 127, 0};
  const double numbers[] = {0.1, std::numeric_limits<double>::denorm_min()};
  const TensorView tensors[] = {TensorView::of<int8_t>("codes", {3}, codes),
                                TensorView::of<double>("odd offset", {2, 1}, numbers),
                                TensorView::of<float>("empty", {0, 4}, {})};
  const std::string path = testing::TempDir() + "qat_safetensors_round_trip.safetensors";
  write_file_atomic(path, write_safetensors(tensors, {{"k", "\u00e4\n"}}));
  SafetensorsFile first = SafetensorsFile::open(path);
  const SafetensorsFile file = std::move(first);
  EXPECT_THAT(file.names(), testing::ElementsAre("codes", "odd offset", "empty"));
  EXPECT_THAT(file.at("codes").values<int8_t>(), testing::ElementsAre(-128, 127, 0));
  EXPECT_THAT(file.at("odd offset").values<double>(), testing::ElementsAre(numbers[0], numbers[1]));
  EXPECT_EQ(file.at("odd offset").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_TRUE(file.at("empty").values<float>().empty());
  EXPECT_EQ(file.metadata().at("k"), "\u00e4\n");
  EXPECT_TRUE(file.contains("codes"));
  EXPECT_FALSE(file.contains("code"));
  std::filesystem::remove(path);
}

TEST(Safetensors, MissingTensorNamesTheNearest) {
  const float value[] = {1.0f};
  const TensorView tensor = TensorView::of<float>("conv1.weight", {1}, value);
  const SafetensorsFile file = SafetensorsFile::parse(write_safetensors({&tensor, 1}, {}), "f");
  try {
    file.at("conv1.wieght");
    FAIL();
  } catch (const FileError& error) {
    EXPECT_STREQ(error.what(), "f: no tensor 'conv1.wieght' (did you mean 'conv1.weight'?)");
  }
  EXPECT_THROW(file.at("conv1.weight").values<int32_t>(), Error);
}

TEST(Safetensors, WriterRefusesWhatCannotBeRead) {
  const float values[] = {1.0f, 2.0f};
  const auto write = [&](std::vector<TensorView> tensors) { return write_safetensors(tensors, {}); };
  const TensorView good = TensorView::of<float>("a", {2}, values);
  EXPECT_THROW(write({good, good}), Error);
  EXPECT_THROW(write({TensorView::of<float>("a", {3}, values)}), Error);
  EXPECT_THROW(write({TensorView::of<float>("__metadata__", {2}, values)}), Error);
  EXPECT_THROW(write({{"a", "F31", {2}, values, 8}}), Error);
  EXPECT_THROW(write({{"\xff", "F32", {2}, values, 8}}), Error);
  EXPECT_THROW(write_safetensors({&good, 1}, {{"k", "\xff"}}), Error);
  EXPECT_EQ(SafetensorsFile::parse(write({}), "f").names().size(), 0u);
}

}  // namespace
}  // namespace qat
