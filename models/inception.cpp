// GoogLeNet (Szegedy et al., CVPR 2015, arXiv:1409.4842) with batch norm, and Inception v3 (Szegedy et al., CVPR 2016,
// arXiv:1512.00567). Both have optional auxiliary classifiers, which only training runs.
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

#include "models/blocks.h"
#include "models/families.h"

namespace qat::models {

struct InceptionOptions {
  int64_t num_classes = 1000;
  int64_t in_channels = 3;
  bool aux_logits = true;
};

}  // namespace qat::models

template <>
struct qat::config::Schema<qat::models::InceptionOptions> {
  static void describe(Fields<qat::models::InceptionOptions>& f) {
    qat::models::describe_classifier(f);
    f.field("aux_logits", &qat::models::InceptionOptions::aux_logits).doc("auxiliary classifiers for training");
  }
};

namespace qat::models {
namespace {

namespace nn = torch::nn;
using at::Tensor;

/// Convolution without bias, batch norm, ReLU; kernel and padding are {height, width}.
std::shared_ptr<ConvBnRelu> basic_conv(int64_t in, int64_t out, torch::ExpandingArray<2> kernel, int64_t stride,
                                       torch::ExpandingArray<2> padding) {
  return std::make_shared<ConvBnRelu>(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(padding).bias(false),
                                      BatchNormOptions{1e-3, 0.1});
}

std::shared_ptr<ConvBnRelu> square_conv(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1,
                                        int64_t padding = 0) {
  return basic_conv(in, out, kernel, stride, padding);
}

Tensor max_pool(const Tensor& x, int64_t kernel, bool ceil) {
  return at::max_pool2d(x, {kernel, kernel}, {2, 2}, {0, 0}, {1, 1}, ceil);
}

/// What both networks share: the pooled features' classifier, and the list of heads.
class InceptionNet : public nn::Module {
 public:
  Tensor forward(const Tensor& x) { return classify(features(x, nullptr)); }

  std::vector<HeadOutput> heads(const Tensor& x) {
    std::vector<HeadOutput> outputs(1);
    outputs[0] = {"logits", classify(features(x, is_training() ? &outputs : nullptr))};
    return outputs;
  }

 protected:
  /// Appends the outputs of auxiliary heads, where `outputs` is given.
  virtual Tensor features(const Tensor& x, std::vector<HeadOutput>* outputs) = 0;

  void register_classifier(int64_t channels, int64_t classes, double dropout) {
    dropout_ = register_module("dropout", nn::Dropout(dropout));
    fc_ = register_module("fc", nn::Linear(channels, classes));
  }

  void init_weights(double std) {
    for_each_layer<nn::Conv2d>(*this, [=](nn::Conv2dImpl& conv) { init_truncated_normal(conv.weight, std); });
    for_each_layer<nn::Linear>(*this, [=](nn::LinearImpl& linear) { init_truncated_normal(linear.weight, std); });
  }

 private:
  Tensor classify(const Tensor& x) { return fc_(dropout_(global_average(x))); }

  nn::Dropout dropout_{nullptr};
  nn::Linear fc_{nullptr};
};

/// 1x1; 1x1 and 3x3; 1x1 and 3x3 (5x5 in the paper); pool and 1x1: four branches, concatenated.
class GooglenetBlock : public nn::Module {
 public:
  struct Row {
    const char* name;
    int64_t in, out1, mid2, out2, mid3, out3, out4;
  };

  explicit GooglenetBlock(const Row& row) {
    branch1_ = register_module("branch1", square_conv(row.in, row.out1, 1));
    branch2_ =
        register_module("branch2", Chain(square_conv(row.in, row.mid2, 1), square_conv(row.mid2, row.out2, 3, 1, 1)));
    branch3_ =
        register_module("branch3", Chain(square_conv(row.in, row.mid3, 1), square_conv(row.mid3, row.out3, 3, 1, 1)));
    branch4_ = register_module("branch4", Chain(max_pool_layer(3, 1, 1, true), square_conv(row.in, row.out4, 1)));
  }

  Tensor forward(const Tensor& x) {
    return at::cat({branch1_->forward(x), branch2_->forward(x), branch3_->forward(x), branch4_->forward(x)}, 1);
  }

 private:
  std::shared_ptr<ConvBnRelu> branch1_;
  Chain branch2_{nullptr}, branch3_{nullptr}, branch4_{nullptr};
};

class GooglenetHead : public nn::Module {
 public:
  GooglenetHead(int64_t in, int64_t classes) {
    conv_ = register_module("conv", square_conv(in, 128, 1));
    fc1_ = register_module("fc1", nn::Linear(128 * 4 * 4, 1024));
    fc2_ = register_module("fc2", nn::Linear(1024, classes));
    dropout_ = register_module("dropout", nn::Dropout(0.7));
  }

  Tensor forward(const Tensor& x) {
    const Tensor pooled = conv_->forward(at::adaptive_avg_pool2d(x, {4, 4})).flatten(1);
    return fc2_(dropout_(at::relu(fc1_(pooled))));
  }

 private:
  std::shared_ptr<ConvBnRelu> conv_;
  nn::Linear fc1_{nullptr}, fc2_{nullptr};
  nn::Dropout dropout_{nullptr};
};

class Googlenet : public InceptionNet {
 public:
  explicit Googlenet(const InceptionOptions& options) {
    constexpr GooglenetBlock::Row kRows[] = {
        {"inception3a", 192, 64, 96, 128, 16, 32, 32},     {"inception3b", 256, 128, 128, 192, 32, 96, 64},
        {"inception4a", 480, 192, 96, 208, 16, 48, 64},    {"inception4b", 512, 160, 112, 224, 24, 64, 64},
        {"inception4c", 512, 128, 128, 256, 24, 64, 64},   {"inception4d", 512, 112, 144, 288, 32, 64, 64},
        {"inception4e", 528, 256, 160, 320, 32, 128, 128}, {"inception5a", 832, 256, 160, 320, 32, 128, 128},
        {"inception5b", 832, 384, 192, 384, 48, 128, 128}};
    conv1_ = register_module("conv1", square_conv(options.in_channels, 64, 7, 2, 3));
    conv2_ = register_module("conv2", square_conv(64, 64, 1));
    conv3_ = register_module("conv3", square_conv(64, 192, 3, 1, 1));
    for (const GooglenetBlock::Row& row : kRows) {
      blocks_.push_back(register_module(row.name, std::make_shared<GooglenetBlock>(row)));
    }
    if (options.aux_logits) {
      aux1_ = register_module("aux1", std::make_shared<GooglenetHead>(512, options.num_classes));
      aux2_ = register_module("aux2", std::make_shared<GooglenetHead>(528, options.num_classes));
    }
    register_classifier(1024, options.num_classes, 0.2);
    init_weights(0.01);
  }

 private:
  Tensor features(const Tensor& input, std::vector<HeadOutput>* outputs) override {
    Tensor x = max_pool(conv1_->forward(input), 3, true);
    x = max_pool(conv3_->forward(conv2_->forward(x)), 3, true);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (i == 2) x = max_pool(x, 3, true);
      if (i == 7) x = max_pool(x, 2, true);
      if (i == 3 && outputs && aux1_) outputs->push_back({"aux_logits1", aux1_->forward(x)});
      if (i == 6 && outputs && aux2_) outputs->push_back({"aux_logits2", aux2_->forward(x)});
      x = blocks_[i]->forward(x);
    }
    return x;
  }

  std::shared_ptr<ConvBnRelu> conv1_, conv2_, conv3_;
  std::vector<std::shared_ptr<GooglenetBlock>> blocks_;
  std::shared_ptr<GooglenetHead> aux1_, aux2_;
};

enum class Pool { kNone, kAverage, kMax };

struct ConvRow {
  std::string name;
  int64_t out, height, width;
  bool halve = false;  // stride 2 without padding; else stride 1 and the size stays
};

struct BranchRow {
  std::vector<ConvRow> convs;
  Pool pool = Pool::kNone;  // before the convolutions
  bool fork = false;        // the last two convolutions read the same input
};

/// Branches that read the same input, concatenated.
class MixedBlock : public nn::Module {
 public:
  MixedBlock(int64_t in, const std::vector<BranchRow>& rows) {
    for (const BranchRow& row : rows) {
      Branch branch{{}, row.pool, row.fork};
      int64_t channels = in;
      for (size_t i = 0; i < row.convs.size(); ++i) {
        const ConvRow& conv = row.convs[i];
        const int64_t top = conv.halve ? 0 : conv.height / 2, left = conv.halve ? 0 : conv.width / 2;
        branch.convs.push_back(register_module(
            conv.name, basic_conv(channels, conv.out, {conv.height, conv.width}, conv.halve ? 2 : 1, {top, left})));
        const bool first_of_fork = row.fork && i + 2 == row.convs.size();
        if (first_of_fork) {
          out_ += conv.out;
        } else {
          channels = conv.out;
        }
      }
      out_ += channels;
      branches_.push_back(std::move(branch));
    }
  }

  int64_t out_channels() const { return out_; }

  Tensor forward(const Tensor& x) {
    std::vector<Tensor> outputs;
    for (const Branch& branch : branches_) {
      Tensor y = x;
      if (branch.pool == Pool::kAverage) y = at::avg_pool2d(x, {3, 3}, {1, 1}, {1, 1});
      if (branch.pool == Pool::kMax) y = max_pool(x, 3, false);
      const size_t chained = branch.convs.size() - (branch.fork ? 2 : 0);
      for (size_t i = 0; i < chained; ++i) y = branch.convs[i]->forward(y);
      if (branch.fork) y = at::cat({branch.convs[chained]->forward(y), branch.convs[chained + 1]->forward(y)}, 1);
      outputs.push_back(y);
    }
    return at::cat(outputs, 1);
  }

 private:
  struct Branch {
    std::vector<std::shared_ptr<ConvBnRelu>> convs;
    Pool pool;
    bool fork;
  };

  std::vector<Branch> branches_;
  int64_t out_ = 0;
};

// The paper's figures 5, 6, 7 and the two reductions, in torchvision's letters.
std::vector<BranchRow> block_a(int64_t pooled) {
  return {{{{"branch1x1", 64, 1, 1}}},
          {{{"branch5x5_1", 48, 1, 1}, {"branch5x5_2", 64, 5, 5}}},
          {{{"branch3x3dbl_1", 64, 1, 1}, {"branch3x3dbl_2", 96, 3, 3}, {"branch3x3dbl_3", 96, 3, 3}}},
          {{{"branch_pool", pooled, 1, 1}}, Pool::kAverage}};
}

std::vector<BranchRow> block_b() {
  return {{{{"branch3x3", 384, 3, 3, true}}},
          {{{"branch3x3dbl_1", 64, 1, 1}, {"branch3x3dbl_2", 96, 3, 3}, {"branch3x3dbl_3", 96, 3, 3, true}}},
          {{}, Pool::kMax}};
}

std::vector<BranchRow> block_c(int64_t mid) {
  return {{{{"branch1x1", 192, 1, 1}}},
          {{{"branch7x7_1", mid, 1, 1}, {"branch7x7_2", mid, 1, 7}, {"branch7x7_3", 192, 7, 1}}},
          {{{"branch7x7dbl_1", mid, 1, 1},
            {"branch7x7dbl_2", mid, 7, 1},
            {"branch7x7dbl_3", mid, 1, 7},
            {"branch7x7dbl_4", mid, 7, 1},
            {"branch7x7dbl_5", 192, 1, 7}}},
          {{{"branch_pool", 192, 1, 1}}, Pool::kAverage}};
}

std::vector<BranchRow> block_d() {
  return {{{{"branch3x3_1", 192, 1, 1}, {"branch3x3_2", 320, 3, 3, true}}},
          {{{"branch7x7x3_1", 192, 1, 1},
            {"branch7x7x3_2", 192, 1, 7},
            {"branch7x7x3_3", 192, 7, 1},
            {"branch7x7x3_4", 192, 3, 3, true}}},
          {{}, Pool::kMax}};
}

std::vector<BranchRow> block_e() {
  return {{{{"branch1x1", 320, 1, 1}}},
          {{{"branch3x3_1", 384, 1, 1}, {"branch3x3_2a", 384, 1, 3}, {"branch3x3_2b", 384, 3, 1}}, Pool::kNone, true},
          {{{"branch3x3dbl_1", 448, 1, 1},
            {"branch3x3dbl_2", 384, 3, 3},
            {"branch3x3dbl_3a", 384, 1, 3},
            {"branch3x3dbl_3b", 384, 3, 1}},
           Pool::kNone,
           true},
          {{{"branch_pool", 192, 1, 1}}, Pool::kAverage}};
}

/// For 17x17 maps: pool to 5x5, one convolution over all of it.
class InceptionHead : public nn::Module {
 public:
  InceptionHead(int64_t in, int64_t classes) {
    conv0_ = register_module("conv0", square_conv(in, 128, 1));
    conv1_ = register_module("conv1", square_conv(128, 768, 5));
    fc_ = register_module("fc", nn::Linear(768, classes));
  }

  Tensor forward(const Tensor& x) {
    return fc_(global_average(conv1_->forward(conv0_->forward(at::avg_pool2d(x, {5, 5}, {3, 3})))));
  }

  void init_classifier() { init_truncated_normal(fc_->weight, 0.001); }

 private:
  std::shared_ptr<ConvBnRelu> conv0_, conv1_;
  nn::Linear fc_{nullptr};
};

class InceptionV3 : public InceptionNet {
 public:
  explicit InceptionV3(const InceptionOptions& options) {
    stem_ = {register_module("Conv2d_1a_3x3", square_conv(options.in_channels, 32, 3, 2)),
             register_module("Conv2d_2a_3x3", square_conv(32, 32, 3)),
             register_module("Conv2d_2b_3x3", square_conv(32, 64, 3, 1, 1)),
             register_module("Conv2d_3b_1x1", square_conv(64, 80, 1)),
             register_module("Conv2d_4a_3x3", square_conv(80, 192, 3))};
    int64_t channels = 192;
    const auto add = [&](const char* name, const std::vector<BranchRow>& rows) {
      blocks_.push_back(register_module(name, std::make_shared<MixedBlock>(channels, rows)));
      channels = blocks_.back()->out_channels();
    };
    add("Mixed_5b", block_a(32));
    add("Mixed_5c", block_a(64));
    add("Mixed_5d", block_a(64));
    add("Mixed_6a", block_b());
    add("Mixed_6b", block_c(128));
    add("Mixed_6c", block_c(160));
    add("Mixed_6d", block_c(160));
    add("Mixed_6e", block_c(192));
    aux_after_ = blocks_.size();
    if (options.aux_logits) {
      aux_ = register_module("AuxLogits", std::make_shared<InceptionHead>(channels, options.num_classes));
    }
    add("Mixed_7a", block_d());
    add("Mixed_7b", block_e());
    add("Mixed_7c", block_e());
    register_classifier(channels, options.num_classes, 0.5);
    init_weights(0.1);
    if (aux_) aux_->init_classifier();
  }

 private:
  Tensor features(const Tensor& input, std::vector<HeadOutput>* outputs) override {
    Tensor x = input;
    for (size_t i = 0; i < stem_.size(); ++i) {
      x = stem_[i]->forward(x);
      if (i == 2 || i == 4) x = max_pool(x, 3, false);
    }
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (i == aux_after_ && outputs && aux_) outputs->push_back({"aux_logits", aux_->forward(x)});
      x = blocks_[i]->forward(x);
    }
    return x;
  }

  std::vector<std::shared_ptr<ConvBnRelu>> stem_;
  std::vector<std::shared_ptr<MixedBlock>> blocks_;
  size_t aux_after_ = 0;  // the auxiliary head reads what this many blocks give
  std::shared_ptr<InceptionHead> aux_;
};

template <class Net>
void add_inception(Registry<ModelFactory>& models, const char* name, const char* description, int64_t smallest_image,
                   double auxiliary_weight) {
  models.add(name, description, [=](const config::Node& node) {
    const auto options = config::parse<InceptionOptions>(node);
    const auto net = std::make_shared<Net>(options);
    Model model = wrap(net, smallest_image);
    if (options.aux_logits) {
      model.forward_heads = [raw = net.get()](const Tensor& x) { return raw->heads(x); };
      model.auxiliary_weight = auxiliary_weight;
    }
    return model;
  });
}

}  // namespace

void add_inceptions(Registry<ModelFactory>& models) {
  add_inception<Googlenet>(models, "googlenet", "GoogLeNet with batch norm, ImageNet", 32, 0.3);
  add_inception<InceptionV3>(models, "inception_v3", "Inception v3, ImageNet (auxiliary head: 299x299)", 75, 0.4);
}

}  // namespace qat::models
