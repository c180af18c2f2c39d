#include "core/archive/pickle.h"

#include <array>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/archive/bytes.h"
#include "core/base/text.h"

namespace qat::archive {
namespace {

using Kind = Value::Kind;

enum class Global : uint8_t { kOrderedDict, kCopy, kNamespace, kTensor, kParameter, kStorage };

struct Allowed {
  std::string_view module, name;
  Global what;
  std::string_view dtype = {};  // of a storage
};

/// The whole list: module and name must be equal to these, so that "torch" with "_utils.x" is another name.
constexpr std::array<Allowed, 22> kAllowed{{
    {"collections", "OrderedDict", Global::kOrderedDict},
    {"collections", "Counter", Global::kCopy},
    {"builtins", "set", Global::kCopy},
    {"__builtin__", "set", Global::kCopy},
    {"builtins", "frozenset", Global::kCopy},
    {"__builtin__", "frozenset", Global::kCopy},
    {"torch", "Size", Global::kCopy},
    {"argparse", "Namespace", Global::kNamespace},
    {"torch._utils", "_rebuild_tensor", Global::kTensor},
    {"torch._utils", "_rebuild_tensor_v2", Global::kTensor},
    {"torch._utils", "_rebuild_parameter", Global::kParameter},
    {"torch._utils", "_rebuild_parameter_with_state", Global::kParameter},
    {"torch", "FloatStorage", Global::kStorage, "F32"},
    {"torch", "HalfStorage", Global::kStorage, "F16"},
    {"torch", "BFloat16Storage", Global::kStorage, "BF16"},
    {"torch", "DoubleStorage", Global::kStorage, "F64"},
    {"torch", "LongStorage", Global::kStorage, "I64"},
    {"torch", "IntStorage", Global::kStorage, "I32"},
    {"torch", "ShortStorage", Global::kStorage, "I16"},
    {"torch", "CharStorage", Global::kStorage, "I8"},
    {"torch", "ByteStorage", Global::kStorage, "U8"},
    {"torch", "BoolStorage", Global::kStorage, "BOOL"},
}};

// Names as in CPython's pickletools.
enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kEmptyDict = '}',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kEmptyList = ']',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kEmptyTuple = ')',
  kSetItems = 'u',
  kBinFloat = 'G',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

constexpr std::string_view kExpected = "expected a state dict: in Python, torch.save(model.state_dict(), ...)";

constexpr uint64_t kReferenceMemory = 2 * sizeof(uint32_t);  // vectors grow by doubling
constexpr uint64_t kValueMemory = 2 * sizeof(Value) + kReferenceMemory;
constexpr uint64_t kMemoMemory = 64;

class Unpickler {
 public:
  Unpickler(std::string_view bytes, uint64_t position, Budget& budget)
      : bytes_(bytes), position_(position), budget_(budget) {}

  Pickle run() {
    check(number(1) == kProto, "it does not start with a protocol number");
    const uint64_t protocol = number(1);
    if (protocol < 2 || protocol > 5) fail(fmt::format("expected protocol 2 to 5, found {}", protocol));
    while (step()) {
    }
    return std::move(result_);
  }

  uint64_t position() const { return position_; }

 private:
  [[noreturn]] void fail(std::string_view cause) const {
    throw Error(fmt::format("not a sound pickle at byte {}: {}", position_, cause));
  }
  void check(bool condition, const char* cause) const {
    if (!condition) fail(cause);
  }

  std::string_view take(uint64_t size) {
    check(size <= bytes_.size() - position_, "it is cut short");
    const std::string_view part = bytes_.substr(position_, size);
    position_ += size;
    return part;
  }
  uint64_t number(int width) { return get_number(take(static_cast<uint64_t>(width)), 0, width); }
  std::string_view counted(int width) { return take(number(width)); }
  std::string_view line() {
    const size_t end = bytes_.find('\n', position_);
    check(end != std::string_view::npos, "it is cut short");
    const std::string_view text = take(end - position_);
    ++position_;
    return text;
  }

  Value& value(uint32_t index) { return result_.values[index]; }
  Value& top(Kind kind) {
    check(stack_.size() > base(), "the stack is empty");
    Value& value = this->value(stack_.back());
    check(value.kind == kind, "an operation meets an object of another kind");
    return value;
  }
  size_t base() const { return marks_.empty() ? 0 : marks_.back(); }

  void push(uint32_t index) {
    budget_.charge(kReferenceMemory);
    stack_.push_back(index);
  }
  uint32_t push(Kind kind, int64_t number = 0, std::string_view text = {}) {
    budget_.charge(kValueMemory);
    result_.values.push_back({kind, number, text, {}});
    push(static_cast<uint32_t>(result_.values.size() - 1));
    return stack_.back();
  }
  void push_tuple(std::vector<uint32_t> items) { value(push(Kind::kTuple)).items = std::move(items); }

  uint32_t pop() {
    check(stack_.size() > base(), "the stack is empty");
    const uint32_t index = stack_.back();
    stack_.pop_back();
    return index;
  }
  std::vector<uint32_t> pop_last(size_t count) {
    check(stack_.size() - base() >= count, "the stack is empty");
    budget_.charge(count * kReferenceMemory);
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<uint32_t> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    return items;
  }
  std::vector<uint32_t> pop_mark() {
    check(!marks_.empty(), "there is no mark");
    std::vector<uint32_t> items = pop_last(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }
  void extend(Kind kind, const std::vector<uint32_t>& items) {
    Value& container = top(kind);
    check(kind != Kind::kDict || items.size() % 2 == 0, "a dict has a key without a value");
    budget_.charge(items.size() * kReferenceMemory);
    container.items.insert(container.items.end(), items.begin(), items.end());
  }

  void memoize(uint64_t place) {
    check(stack_.size() > base(), "the stack is empty");
    budget_.charge(kMemoMemory);
    memo_[place] = stack_.back();
  }
  void recall(uint64_t place) {
    const auto found = memo_.find(place);
    check(found != memo_.end(), "a reference to nothing");
    push(found->second);
  }

  void push_long(std::string_view text) {
    if (text.size() > sizeof(int64_t)) {
      push(Kind::kLong, 0, text);
    } else if (text.empty()) {
      push(Kind::kInt);
    } else {
      const auto unused = static_cast<int>(64 - 8 * text.size());
      const uint64_t bits = get_number(text, 0, static_cast<int>(text.size()));
      push(Kind::kInt, static_cast<int64_t>(bits << unused) >> unused);
    }
  }

  void push_global(std::string_view module, std::string_view name) {
    for (size_t i = 0; i < kAllowed.size(); ++i) {
      if (kAllowed[i].module == module && kAllowed[i].name == name) {
        push(Kind::kGlobal, static_cast<int64_t>(i));
        return;
      }
    }
    const std::string full = in_quotes(fmt::format("{}.{}", module.substr(0, 80), name.substr(0, 80)));
    QAT_CHECK(!stack_.empty() || !marks_.empty(),
              "looks like a pickled object (a whole module?) made by {}, which is refused; {}", full, kExpected);
    throw Error(fmt::format("refers to {}, which is refused: it is no part of a state dict", full));
  }

  const Allowed& global(uint32_t index) {
    check(value(index).kind == Kind::kGlobal, "a call of what is no name");
    return kAllowed[static_cast<size_t>(value(index).number)];
  }

  /// The items of a tuple when they are of these kinds (further ones may follow).
  const std::vector<uint32_t>& arguments(uint32_t tuple, std::initializer_list<Kind> kinds, std::string_view of) {
    const Value& found = value(tuple);
    bool fits = found.kind == Kind::kTuple && found.items.size() >= kinds.size();
    size_t i = 0;
    for (const Kind kind : kinds) fits = fits && value(found.items[i++]).kind == kind;
    if (!fits) fail(fmt::format("{} has other arguments than PyTorch gives it", of));
    return found.items;
  }

  void persistent() {
    const uint32_t id = pop();
    const Value& whole = value(id);
    if (whole.kind == Kind::kTuple && !whole.items.empty() && value(whole.items[0]).text == "module") {
      throw Error("looks like a pickled module; " + std::string(kExpected));
    }
    const std::vector<uint32_t>& items =
        arguments(id, {Kind::kText, Kind::kGlobal, Kind::kText, Kind::kText, Kind::kInt}, "a storage");
    const Allowed& type = global(items[1]);
    check(value(items[0]).text == "storage" && type.what == Global::kStorage, "a reference to what is no storage");
    const int64_t elements = value(items[4]).number;
    Storage storage{value(items[2]).text, type.dtype, elements, 0, elements};
    if (items.size() > 5 && value(items[5]).kind == Kind::kTuple) {
      // A part of a storage: its key, first element and length (files of PyTorch before 0.4).
      const auto& part = arguments(items[5], {Kind::kText, Kind::kInt, Kind::kInt}, "a part of a storage");
      storage.offset = value(part[1]).number;
      storage.size = value(part[2]).number;
    }
    check(elements >= 0 && storage.offset >= 0 && storage.size >= 0 && storage.offset <= elements &&
              storage.size <= elements - storage.offset,
          "a storage of impossible size");
    budget_.charge(2 * sizeof(Storage));
    result_.storages.push_back(storage);
    push(Kind::kStorage, static_cast<int64_t>(result_.storages.size() - 1));
  }

  void reduce() {
    const uint32_t argument = pop();
    const Allowed& callee = global(pop());
    switch (callee.what) {
      case Global::kOrderedDict: {
        const uint32_t dict = push(Kind::kDict, 1);
        if (!arguments(argument, {}, callee.name).empty()) fill(dict, value(argument).items[0]);
        return;
      }
      case Global::kCopy: {
        const std::vector<uint32_t>& items = arguments(argument, {}, callee.name);
        check(items.size() == 1, "a container is made from something else than one container");
        const Kind kind = value(items[0]).kind;
        check(kind == Kind::kTuple || kind == Kind::kList || kind == Kind::kDict,
              "a container is made from no container");
        push(items[0]);
        return;
      }
      case Global::kTensor: {
        const auto& items = arguments(argument, {Kind::kStorage, Kind::kInt, Kind::kTuple, Kind::kTuple}, callee.name);
        std::vector<uint32_t> parts(items.begin(), items.begin() + 4);
        budget_.charge(parts.size() * kReferenceMemory);
        value(push(Kind::kTensor)).items = std::move(parts);
        return;
      }
      case Global::kParameter:
        push(arguments(argument, {Kind::kTensor}, callee.name)[0]);
        return;
      case Global::kNamespace:
      case Global::kStorage:
        break;
    }
    fail(fmt::format("a call of {}.{}", callee.module, callee.name));
  }

  /// OrderedDict([(key, value), ...]), as Python 2 writes one.
  void fill(uint32_t dict, uint32_t pairs) {
    check(value(pairs).kind == Kind::kList || value(pairs).kind == Kind::kTuple, "an OrderedDict of no list");
    for (const uint32_t pair : value(pairs).items) {
      const Value& both = value(pair);
      check((both.kind == Kind::kList || both.kind == Kind::kTuple) && both.items.size() == 2,
            "an OrderedDict of what are no pairs");
      budget_.charge(2 * kReferenceMemory);
      value(dict).items.insert(value(dict).items.end(), both.items.begin(), both.items.end());
    }
  }

  /// A namespace or an OrderedDict gets attributes (such as a state dict's _metadata): they are read over.
  void build() {
    check(value(pop()).kind == Kind::kDict, "attributes that are no dict");
    check(stack_.size() > base(), "the stack is empty");
    const Value& object = value(stack_.back());
    check(object.kind == Kind::kOther || (object.kind == Kind::kDict && object.number == 1),
          "attributes of an object that has none");
  }

  void new_object() {
    const bool no_arguments = arguments(pop(), {}, "a new object").empty();
    const Allowed& type = global(pop());
    if (!no_arguments || (type.what != Global::kNamespace && type.what != Global::kOrderedDict)) {
      fail(fmt::format("a new {}.{}", type.module, type.name));
    }
    if (type.what == Global::kNamespace) {
      push(Kind::kOther);
    } else {
      push(Kind::kDict, 1);
    }
  }

  /// Executes one operation; false at the end.
  bool step() {
    const auto code = static_cast<uint8_t>(number(1));
    switch (code) {
      case kStop:
        check(stack_.size() == 1 && marks_.empty(), "it ends with something unfinished");
        result_.root = stack_.back();
        return false;
      case kMark:
        budget_.charge(2 * sizeof(size_t));
        marks_.push_back(stack_.size());
        break;
      case kProto:
        fail("a second protocol number");
      case kFrame:
        check(number(8) <= bytes_.size() - position_, "it is cut short");
        break;

      // clang-format off
      case kNone: push(Kind::kOther); break;
      case kNewTrue: push(Kind::kBool, 1); break;
      case kNewFalse: push(Kind::kBool, 0); break;
      case kBinInt: push(Kind::kInt, static_cast<int32_t>(number(4))); break;
      case kBinInt1: push(Kind::kInt, static_cast<int64_t>(number(1))); break;
      case kBinInt2: push(Kind::kInt, static_cast<int64_t>(number(2))); break;
      case kLong1: push_long(counted(1)); break;
      case kLong4: push_long(counted(4)); break;
      case kBinFloat: take(8); push(Kind::kOther); break;
      case kShortBinUnicode:
      case kShortBinString: push(Kind::kText, 0, counted(1)); break;
      case kBinUnicode:
      case kBinString: push(Kind::kText, 0, counted(4)); break;
      case kBinUnicode8: push(Kind::kText, 0, counted(8)); break;
      case kShortBinBytes: counted(1); push(Kind::kOther); break;
      case kBinBytes: counted(4); push(Kind::kOther); break;
      case kBinBytes8: counted(8); push(Kind::kOther); break;

      case kEmptyTuple: push(Kind::kTuple); break;
      case kTuple1: push_tuple(pop_last(1)); break;
      case kTuple2: push_tuple(pop_last(2)); break;
      case kTuple3: push_tuple(pop_last(3)); break;
      case kTuple:
      case kFrozenSet: push_tuple(pop_mark()); break;
      case kEmptyList:
      case kEmptySet: push(Kind::kList); break;
      case kEmptyDict: push(Kind::kDict); break;
      case kAppend: extend(Kind::kList, pop_last(1)); break;
      case kAppends:
      case kAddItems: extend(Kind::kList, pop_mark()); break;
      case kSetItem: extend(Kind::kDict, pop_last(2)); break;
      case kSetItems: extend(Kind::kDict, pop_mark()); break;

      case kBinPut: memoize(number(1)); break;
      case kLongBinPut: memoize(number(4)); break;
      case kMemoize: memoize(memo_.size()); break;
      case kBinGet: recall(number(1)); break;
      case kLongBinGet: recall(number(4)); break;

      case kBinPersId: persistent(); break;
      case kReduce: reduce(); break;
      case kNewObj: new_object(); break;
      case kBuild: build(); break;
      // clang-format on
      case kGlobal: {
        const std::string_view module = line();
        push_global(module, line());
        break;
      }
      case kStackGlobal: {
        const std::string_view name = top(Kind::kText).text;
        pop();
        const std::string_view module = top(Kind::kText).text;
        pop();
        push_global(module, name);
        break;
      }
      default:
        fail(fmt::format("opcode {:#04x}, which torch.save does not write", code));
    }
    return true;
  }

  std::string_view bytes_;
  uint64_t position_;
  Budget& budget_;
  Pickle result_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // sizes of the stack
  std::unordered_map<uint64_t, uint32_t> memo_;
};

}  // namespace

Pickle read_pickle(std::string_view bytes, uint64_t& position, Budget& budget) {
  Unpickler unpickler(bytes, position, budget);
  Pickle pickle = unpickler.run();
  position = unpickler.position();
  return pickle;
}

}  // namespace qat::archive
