// The ONNX files: what is in them, what comes back, what is refused.
#include "core/export/onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/sha256.h"
#include "core/export/fingerprint.h"
#include "core/export/onnx_proto.h"
#include "core/integer/pixels.h"
#include "tests/integer/random_model.h"
#include "tests/integer/sample_model.h"

namespace qat::exporter {
namespace {

using integer::CodeType;
using integer::IntegerModel;
using integer::node;
using integer::Op;
using testing::ElementsAre;
using testing::HasSubstr;

struct Form {
  const char* name;
  std::string (*write)(const IntegerModel&);
};
constexpr Form kForms[] = {{"onnx-qdq", onnx_qdq}, {"onnx-qoperator", onnx_qoperator}};

onnx::ModelProto proto_of(const std::string& bytes) {
  onnx::ModelProto proto;
  EXPECT_TRUE(proto.ParseFromString(bytes));
  return proto;
}

std::string bytes_of(const onnx::ModelProto& proto) { return proto.SerializeAsString(); }

std::vector<std::string> operators(const onnx::ModelProto& proto) {
  std::vector<std::string> ops;
  for (const onnx::NodeProto& n : proto.graph().node()) ops.push_back(n.op_type());
  return ops;
}

const onnx::TensorProto& initializer(const onnx::ModelProto& proto, const std::string& name) {
  for (const onnx::TensorProto& t : proto.graph().initializer()) {
    if (t.name() == name) return t;
  }
  throw Error("no initializer " + name);
}

template <class E>
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

TEST(OnnxQdq, TheSampleByHand) {
  const onnx::ModelProto proto = proto_of(onnx_qdq(integer::sample_model()));
  EXPECT_EQ(proto.ir_version(), 8);
  ASSERT_EQ(proto.opset_import_size(), 1);
  EXPECT_EQ(proto.opset_import(0).version(), 13);
  // quantize; conv with its three operands; flatten; linear with its two operands and no quantizer behind it.
  EXPECT_THAT(operators(proto), ElementsAre("QuantizeLinear", "DequantizeLinear", "DequantizeLinear",
                                            "DequantizeLinear", "Conv", "QuantizeLinear", "DequantizeLinear", "Flatten",
                                            "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Gemm"));
  EXPECT_EQ(proto.graph().input(0).name(), "image");
  EXPECT_EQ(proto.graph().output(0).name(), "logits");
  // The bias's scale: 0.5 * {0.5, 0.25}.
  const onnx::TensorProto& scale = initializer(proto, "conv_bias_scale");
  ASSERT_EQ(scale.raw_data().size(), 8u);
  const auto* values = reinterpret_cast<const float*>(scale.raw_data().data());
  EXPECT_EQ(values[0], 0.25f);
  EXPECT_EQ(values[1], 0.125f);
  EXPECT_EQ(initializer(proto, "conv_weight_quantized").data_type(), onnx::TensorProto::INT8);
  EXPECT_EQ(initializer(proto, "map_scale").dims_size(), 0);
}

TEST(OnnxQdq, EveryNodeHasInitializersOfItsOwn) {
  const onnx::ModelProto proto = proto_of(onnx_qdq(integer::RandomModel(8, {.operators = 10}).model()));
  std::set<std::string> constants, used;
  for (const onnx::TensorProto& t : proto.graph().initializer()) constants.insert(t.name());
  for (const onnx::NodeProto& n : proto.graph().node()) {
    for (const std::string& x : n.input()) {
      if (constants.contains(x)) {
        EXPECT_TRUE(used.insert(x).second) << x << " is shared";
      }
    }
  }
  EXPECT_EQ(used, constants);
}

TEST(OnnxQOperator, TheSampleByHand) {
  const onnx::ModelProto proto = proto_of(onnx_qoperator(integer::sample_model()));
  EXPECT_THAT(operators(proto), ElementsAre("QuantizeLinear", "QLinearConv", "Flatten", "QGemm"));
  const onnx::NodeProto& conv = proto.graph().node(1);
  EXPECT_THAT(
      std::vector<std::string>(conv.input().begin(), conv.input().end()),
      ElementsAre("image_codes_quantized", "image_codes_scale", "image_codes_zero_point", "conv_weight_quantized",
                  "conv_weight_scale", "conv_weight_zero_point", "map_scale", "map_zero_point", "conv_bias_quantized"));
  EXPECT_EQ(conv.output(0), "map_quantized");
}

TEST(Onnx, ANarrowRangeIsAnIntegerClipAndAReluToo) {
  IntegerModel m;
  m.tensors = {integer::floats("x", {1, 1, 3}), integer::codes("q", {1, 1, 3}, 1, 8),
               integer::codes("r", {1, 1, 3}, 1, 8), integer::floats("y", {1, 1, 3})};
  m.tensors[1].hi = m.tensors[2].hi = 15;
  m.nodes = {node(Op::kQuantize, "quantize", {0}, 1), node(Op::kRelu, "relu", {1}, 2),
             node(Op::kDequantize, "dequantize", {2}, 3)};
  m.inputs = {0};
  m.outputs = {3};
  for (const Form& form : kForms) {
    SCOPED_TRACE(form.name);
    const onnx::ModelProto proto = proto_of(form.write(m));
    EXPECT_THAT(operators(proto), ElementsAre("QuantizeLinear", "Clip", "Clip", "DequantizeLinear"));
    EXPECT_EQ(initializer(proto, "q_max").raw_data(), std::string(1, 15));
    EXPECT_EQ(initializer(proto, "relu_min").raw_data(), std::string(1, 8));
    EXPECT_EQ(parse_onnx(form.write(m), "m.onnx"), m);
  }
}

TEST(Onnx, EveryModelComesBackAndGivesTheSameBytes) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const integer::RandomOptions options{.type = seed % 3 == 2 ? CodeType::kInt8 : CodeType::kUint8,
                                         .ties = seed % 2 == 0,
                                         .operators = static_cast<int>(seed % 12)};
    const IntegerModel model = integer::RandomModel(1000 + seed, options).model();
    for (const Form& form : kForms) {
      SCOPED_TRACE(fmt::format("seed {}, {}\n{}", 1000 + seed, form.name, model.dump()));
      const std::string bytes = form.write(model);
      const IntegerModel read = parse_onnx(bytes, "m.onnx");
      EXPECT_TRUE(read == model) << read.dump();
      EXPECT_EQ(form.write(read), bytes);
    }
  }
}

TEST(Onnx, MetadataHoldsTheDigestsOfTheFixedInput) {
  const IntegerModel m = integer::sample_model();
  const onnx::ModelProto proto = proto_of(onnx_qdq(m));
  EXPECT_EQ(proto.producer_name(), "qat");
  std::map<std::string, std::string> entries;
  for (const auto& entry : proto.metadata_props()) entries[entry.key()] = entry.value();
  EXPECT_EQ(entries["qat.format"], "onnx-qdq");
  EXPECT_EQ(entries["qat.target"], "onnxruntime");
  const nlohmann::json preprocessing = nlohmann::json::parse(entries["qat.preprocessing"]);
  EXPECT_EQ(preprocessing["mean"][0].get<float>(), 0.286f);
  // The input's codes, made here from the formula in fingerprint.h: scale 0.5, zero point 10, range [0, 255].
  std::string codes;
  for (uint64_t j = 0; j < 4; ++j) {
    const double u = static_cast<double>(split_mix64(split_mix64(0), j) >> 11) * 0x1p-53;
    const auto x = static_cast<float>(0.5 * (0 - 1 - 10 + u * 257));
    codes.push_back(static_cast<char>(std::clamp<double>(std::nearbyint(x / 0.5f) + 10, 0, 255)));
  }
  const nlohmann::json digests = nlohmann::json::parse(entries["qat.sha256"]);
  EXPECT_EQ(digests["image_codes_quantized"], sha256(codes));
  EXPECT_EQ(digests.size(), 4u);
  EXPECT_TRUE(digests.contains("logits"));
}

TEST(Onnx, WhatARuntimeComputesOtherwiseIsRefused) {
  const auto refused = [](const std::function<void(IntegerModel&)>& change) {
    IntegerModel m = integer::RandomModel(4, {.operators = 0}).model();
    change(m);
    std::string text;
    for (const Form& form : kForms) text = error_of<ExportError>([&] { form.write(m); });
    return text;
  };
  EXPECT_EQ(refused([](IntegerModel&) {}), "no error");
  EXPECT_THAT(refused([](IntegerModel& m) { m.target = "ncnn"; }), HasSubstr("the target is ncnn"));
  EXPECT_THAT(refused([](IntegerModel& m) { m.outputs.push_back(m.outputs[0]); }), HasSubstr("named twice"));
  EXPECT_THAT(refused([](IntegerModel& m) { m.outputs.push_back(0); }), HasSubstr("image: an input that is an output"));
  EXPECT_THAT(refused([](IntegerModel& m) { m.outputs = {1}; }), HasSubstr("float32 values that are no output"));
  EXPECT_THAT(refused([](IntegerModel& m) {
                m.tensors.push_back(integer::codes("again", m.tensors[m.outputs[0]].shape, 1, 0));
                m.nodes.push_back(node(Op::kQuantize, "again", {m.outputs[0]}, static_cast<int>(m.tensors.size()) - 1));
              }),
              HasSubstr("again: float values that the network itself makes"));
  EXPECT_THAT(refused([](IntegerModel& m) {
                m.tensors.push_back(m.tensors[1]);
                m.tensors.back().name = "one";
                m.nodes.push_back(node(Op::kConcat, "one", {1}, static_cast<int>(m.tensors.size()) - 1));
              }),
              HasSubstr("one: a concatenation of one input"));
  EXPECT_THAT(refused([](IntegerModel& m) { m.tensors[1].name = "image_scale"; }), HasSubstr("no error"));
  EXPECT_THAT(refused([](IntegerModel& m) {
                m.tensors[1].name = "image";
                m.tensors[0].name = "image_scale";
              }),
              HasSubstr("the name image_scale is needed twice"));
  // One node of every kind, int8 activations on uint8 weights with zero points per channel, a table of nothing known.
  const std::string all = error_of<ExportError>([] { onnx_qdq(integer::every_op_model()); });
  EXPECT_THAT(all, HasSubstr("n.conv: uint8 weights on int8 activations"));
  EXPECT_THAT(all, HasSubstr("n.conv: weight zero points that differ"));
  EXPECT_THAT(all, HasSubstr("n.gate: its table is not that of leaky_relu"));
}

TEST(Onnx, ACeilModeThatDropsAWindowIsRefused) {
  IntegerModel m;
  // Ceil would start a third window at column 4, in the padding; it is dropped.
  m.tensors = {integer::floats("x", {1, 3, 3}), integer::codes("q", {1, 3, 3}, 1, 0),
               integer::codes("p", {1, 2, 2}, 1, 0), integer::floats("y", {1, 2, 2})};
  m.nodes = {node(Op::kQuantize, "quantize", {0}, 1), node(Op::kMaxPool, "pool", {1}, 2),
             node(Op::kDequantize, "dequantize", {2}, 3)};
  m.nodes[1].kernel = {2, 2};
  m.nodes[1].stride = {2, 2};
  m.nodes[1].pad = {0, 0, 1, 1};
  m.inputs = {0};
  m.outputs = {3};
  EXPECT_NO_THROW(onnx_qdq(m));
  m.nodes[1].kernel = {1, 1};
  m.nodes[1].pad = {0, 0, 0, 0};
  m.tensors[1].shape = m.tensors[0].shape = {1, 4, 4};
  m.nodes[1].ceil_mode = true;
  EXPECT_THAT(error_of<ExportError>([&] { onnx_qdq(m); }), HasSubstr("pool: ceil mode whose last window"));
}

TEST(OnnxReader, NamesTheNodeAndTheReason) {
  const std::string bytes = onnx_qdq(integer::sample_model());
  const auto refused = [&](const std::function<void(onnx::ModelProto&)>& change) {
    onnx::ModelProto proto = proto_of(bytes);
    change(proto);
    return error_of<FileError>([&] { parse_onnx(bytes_of(proto), "m.onnx"); });
  };
  const auto constant = [](onnx::ModelProto& m, const std::string& name) -> onnx::TensorProto& {
    return const_cast<onnx::TensorProto&>(initializer(m, name));
  };
  const auto graph_node = [](onnx::ModelProto& m, int i) -> onnx::NodeProto& {
    return *m.mutable_graph()->mutable_node(i);
  };
  EXPECT_EQ(refused([](auto&) {}), "no error");
  EXPECT_THAT(refused([](auto& m) { m.set_ir_version(9); }), HasSubstr("m.onnx: expected IR version 8, found 9"));
  EXPECT_THAT(refused([](auto& m) { m.mutable_opset_import(0)->set_version(21); }), HasSubstr("expected opset 13"));
  EXPECT_THAT(refused([](auto& m) { m.clear_metadata_props(); }), HasSubstr("not a file that qat exported"));
  EXPECT_THAT(refused([](auto& m) { m.add_functions(); }), HasSubstr("functions"));
  EXPECT_THAT(refused([&](auto& m) { graph_node(m, 4).set_op_type("ConvTranspose"); }),
              HasSubstr("node 'conv' ('ConvTranspose'): unknown operator"));
  EXPECT_THAT(refused([&](auto& m) { graph_node(m, 4).mutable_attribute(0)->set_name("auto_pad"); }),
              HasSubstr("node 'conv' ('Conv'): attribute kernel_shape is missing"));
  EXPECT_THAT(refused([&](auto& m) {
                onnx::AttributeProto& a = *graph_node(m, 4).add_attribute();
                a.set_name("auto_pad");
              }),
              HasSubstr("unknown attribute 'auto_pad'"));
  EXPECT_THAT(refused([&](auto& m) { constant(m, "conv_bias_scale").mutable_raw_data()->at(0) ^= 1; }),
              HasSubstr("node 'conv' ('Conv'): the bias's scale is not the product"));
  EXPECT_THAT(refused([&](auto& m) { constant(m, "conv_x0_zero_point").mutable_raw_data()->at(0) ^= 1; }),
              HasSubstr("image_codes has scale 0.5 and zero point 10, read here with 0.5 and 11"));
  EXPECT_THAT(refused([&](auto& m) { constant(m, "map_scale").set_raw_data(std::string(4, '\xff')); }),
              HasSubstr("expected a finite positive number"));
  EXPECT_THAT(refused([&](auto& m) { constant(m, "conv_weight_quantized").set_dims(0, int64_t{1} << 62); }),
              HasSubstr("2 bytes do not fit its shape"));
  EXPECT_THAT(refused([&](auto& m) { constant(m, "map_scale").clear_raw_data(); }), HasSubstr("raw data in the file"));
  EXPECT_THAT(refused([&](auto& m) { m.mutable_graph()->add_initializer()->set_name("extra"); }),
              HasSubstr("initializer 'extra' belongs to no node"));
  EXPECT_THAT(refused([](auto& m) { m.mutable_graph()->clear_value_info(); }), HasSubstr("the shape of value"));
  EXPECT_THAT(refused([](auto& m) {
                auto* shape =
                    m.mutable_graph()->mutable_value_info(0)->mutable_type()->mutable_tensor_type()->mutable_shape();
                shape->mutable_dim(2)->set_dim_value(int64_t{1} << 40);
              }),
              HasSubstr("tensor image_codes: bad shape"));
  EXPECT_THAT(refused([](auto& m) { m.mutable_graph()->mutable_node()->SwapElements(0, 1); }),
              HasSubstr("is neither codes nor an initializer"));
  // A cycle: the convolution reads what its own quantizer makes.
  EXPECT_THAT(refused([&](auto& m) { graph_node(m, 1).set_input(0, "map_quantized"); }),
              HasSubstr("input 'map_quantized' is neither codes nor an initializer"));
  EXPECT_THAT(refused([&](auto& m) { graph_node(m, 5).set_output(0, "image_codes_quantized"); }),
              HasSubstr("is made twice"));
  EXPECT_THAT(refused([](auto& m) { m.mutable_graph()->mutable_output(0)->set_name("nothing"); }),
              HasSubstr("is used by no node"));
  EXPECT_THAT(error_of<FileError>([] { parse_onnx("", "m.onnx"); }), HasSubstr("m.onnx: not an ONNX model"));
}

/// image {1, 2, 2} -> codes -> a convolution of one tap over pixels 2 and 3 apart, one row taken away below.
IntegerModel spread_model() {
  IntegerModel m = integer::sample_model();
  m.nodes[1].spread = {2, 3};
  m.nodes[1].pad = {1, 0, -1, 2};
  m.tensors[2].shape = {2, 3, 6};
  m.tensors[3].shape = {36};
  m.nodes[3].weight.shape = {2, 36};
  m.nodes[3].weight.codes.assign(72, 1);
  return m;
}

TEST(OnnxWriter, SpreadsTheInputOfATransposedConvolutionByMovesOfCodes) {
  for (const Form& form : kForms) {
    const IntegerModel model = spread_model();
    const std::string bytes = form.write(model);
    EXPECT_EQ(parse_onnx(bytes, "m.onnx"), model) << form.name;
    const onnx::ModelProto proto = proto_of(bytes);
    const std::vector<std::string> ops = operators(proto);
    EXPECT_THAT(std::vector<std::string>(ops.begin() + 1, ops.begin() + 5),
                ElementsAre("Reshape", "Pad", "Reshape", "Pad"));
    const auto numbers = [&](const std::string& name) {
      const std::string& raw = initializer(proto, name).raw_data();
      const auto* data = reinterpret_cast<const int64_t*>(raw.data());
      return std::vector<int64_t>(data, data + raw.size() / sizeof(int64_t));
    };
    EXPECT_THAT(numbers("conv_apart_shape"), ElementsAre(0, 1, 2, 1, 2, 1));
    EXPECT_THAT(numbers("conv_filled_pads"), ElementsAre(0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2));
    EXPECT_THAT(numbers("conv_joined_shape"), ElementsAre(0, 1, 4, 6));
    // The last pixel's own fill, one row and two columns, goes; so does a row more, and two columns come.
    EXPECT_THAT(numbers("conv_map_pads"), ElementsAre(0, 0, 1, 0, 0, 0, -2, 0));
    EXPECT_EQ(initializer(proto, "conv_map_zero").raw_data(), std::string(1, 10));
  }
}

TEST(OnnxReader, RefusesOtherMovesOfCodes) {
  for (const Form& form : kForms) {
    const auto refused = [&](const std::string& name, int at, int64_t value) {
      onnx::ModelProto proto = proto_of(form.write(spread_model()));
      std::string& raw = *const_cast<onnx::TensorProto&>(initializer(proto, name)).mutable_raw_data();
      std::memcpy(raw.data() + static_cast<size_t>(at) * sizeof(value), &value, sizeof(value));
      return error_of<FileError>([&] { parse_onnx(bytes_of(proto), "m.onnx"); });
    };
    EXPECT_THAT(refused("conv_apart_shape", 3, 2), HasSubstr("expected pixels apart, [0, 1, 2, 1, 2, 1]"));
    EXPECT_THAT(refused("conv_filled_pads", 10, 1), HasSubstr("other dimensions are padded too"));
    EXPECT_THAT(refused("conv_filled_pads", 9, -1), HasSubstr("pixels come 0 and 3 apart"));
    EXPECT_THAT(refused("conv_joined_shape", 2, 5), HasSubstr("expected pixels apart, [0, 1, 4, 6]"));
    EXPECT_THAT(refused("conv_map_pads", 2, int64_t{1} << 40), HasSubstr("pads are out of range"));
    EXPECT_THAT(refused("conv_map_pads", 3, 1), HasSubstr("expected output shape"));
    onnx::ModelProto other = proto_of(form.write(spread_model()));
    const_cast<onnx::TensorProto&>(initializer(other, "conv_map_zero")).set_raw_data(std::string(1, 9));
    EXPECT_THAT(error_of<FileError>([&] { parse_onnx(bytes_of(other), "m.onnx"); }),
                HasSubstr("expected the zero point, 10, as padding"));
    onnx::ModelProto half = proto_of(form.write(spread_model()));  // the last Pad left out
    half.mutable_graph()->mutable_node(5)->set_input(0, "conv_joined");
    half.mutable_graph()->mutable_node()->DeleteSubrange(4, 1);
    EXPECT_THAT(error_of<FileError>([&] { parse_onnx(bytes_of(half), "m.onnx"); }),
                HasSubstr("input 'conv_joined' is not a whole map yet"));
  }
}

TEST(OnnxWriter, WritesThePreprocessingOfPixels) {
  for (const Form& form : kForms) {
    const IntegerModel model = integer::with_pixel_input(integer::sample_model());
    const std::string bytes = form.write(model);
    EXPECT_EQ(parse_onnx(bytes, "m.onnx"), model) << form.name;
    const onnx::ModelProto proto = proto_of(bytes);
    EXPECT_EQ(proto.graph().input(0).name(), "image");
    EXPECT_EQ(proto.graph().input(0).type().tensor_type().elem_type(), onnx::TensorProto::UINT8);
    const std::vector<std::string> ops = operators(proto);
    EXPECT_THAT(std::vector<std::string>(ops.begin(), ops.begin() + 5),
                ElementsAre("Cast", "Div", "Sub", "Div", "QuantizeLinear"));
    EXPECT_THAT(onnx_float_nodes(bytes, "m.onnx"), onnx_float_nodes(form.write(integer::sample_model()), "m.onnx"));
    onnx::ModelProto merged = proto;  // what reads preprocessed pixels computes in float
    merged.mutable_graph()->mutable_node(4)->set_op_type("Relu");
    EXPECT_THAT(onnx_float_nodes(bytes_of(merged), "m.onnx"), testing::Contains("input (Relu)"));
    // Without a normalization only pixels / 255.
    IntegerModel plain = model;
    plain.preprocessing = {};
    EXPECT_EQ(parse_onnx(form.write(plain), "m.onnx"), plain) << form.name;
  }
}

TEST(OnnxReader, RefusesOtherPreprocessingsOfPixels) {
  const std::string bytes = onnx_qdq(integer::with_pixel_input(integer::sample_model()));
  const auto refused = [&](const std::function<void(onnx::ModelProto&)>& change) {
    onnx::ModelProto proto = proto_of(bytes);
    change(proto);
    return error_of<FileError>([&] { parse_onnx(bytes_of(proto), "m.onnx"); });
  };
  const auto other = [&](const std::string& name) {
    return refused([&](auto& m) { const_cast<onnx::TensorProto&>(initializer(m, name)).mutable_raw_data()->at(1) ^= 1; });
  };
  EXPECT_EQ(refused([](auto&) {}), "no error");
  const char* expected = "expected pixels / 255, less the mean, divided by the standard deviation of the metadata";
  for (const char* name : {"input_unit_by", "input_centred_by", "input_normalized_by"}) {
    EXPECT_THAT(other(name), HasSubstr(expected)) << name;
  }
  EXPECT_THAT(refused([](auto& m) { m.mutable_graph()->mutable_node(2)->set_op_type("Div"); }), HasSubstr(expected));
  EXPECT_THAT(refused([](auto& m) {  // the last step left out
                m.mutable_graph()->mutable_node(4)->set_input(0, "input_centred");
                m.mutable_graph()->mutable_node()->DeleteSubrange(3, 1);
              }),
              HasSubstr("expected pixels after 3 steps of preprocessing, found 2"));
  EXPECT_THAT(refused([](auto& m) {
                m.mutable_graph()->mutable_input(0)->mutable_type()->mutable_tensor_type()->set_elem_type(
                    onnx::TensorProto::FLOAT);
              }),
              HasSubstr("node 'input_cast' ('Cast')"));
}

/// Bytes of a file changed, cut and repeated: a model or a FileError, nothing else.
TEST(OnnxReader, DamagedFilesAreRefusedOrRead) {
  CounterRng random(3);
  for (const Form& form : kForms) {
    const std::string bytes = form.write(integer::RandomModel(6, {.operators = 6}).model());
    int refused = 0;
    for (int i = 0; i < 1500; ++i) {
      std::string damaged = bytes;
      if (i % 3 == 0) {
        damaged.resize(random.below(bytes.size()));
      } else {
        for (uint64_t n = 1 + random.below(4); n > 0; --n) {
          damaged[random.below(bytes.size())] = static_cast<char>(random.next());
        }
      }
      try {
        parse_onnx(damaged, "m.onnx").check();
      } catch (const FileError&) {
        ++refused;
      }
    }
    EXPECT_GT(refused, 700);
  }
}

TEST(OnnxForJudge, OpensTheBatchAndShowsEveryTensor) {
  const IntegerModel m = integer::sample_model();
  const onnx::ModelProto all = proto_of(onnx_for_judge(onnx_qoperator(m), m, true));
  std::vector<std::string> names;
  for (const auto& value : all.graph().output()) names.push_back(value.name());
  EXPECT_THAT(names, ElementsAre("logits", "image_codes_quantized", "map_quantized", "flat_quantized"));
  EXPECT_TRUE(all.graph().input(0).type().tensor_type().shape().dim(0).has_dim_param());
  const onnx::ModelProto own = proto_of(onnx_for_judge(onnx_qoperator(m), m, false));
  EXPECT_EQ(own.graph().output_size(), 1);
}

TEST(OnnxFloatNodes, ArithmeticOnDequantizedValues) {
  EXPECT_THAT(onnx_float_nodes(onnx_qdq(integer::sample_model()), "m.onnx"), ElementsAre("conv (Conv)", "fc (Gemm)"));
  EXPECT_THAT(onnx_float_nodes(onnx_qoperator(integer::sample_model()), "m.onnx"), testing::IsEmpty());
}

}  // namespace
}  // namespace qat::exporter
