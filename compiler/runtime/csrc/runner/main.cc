// burnish_run: runs a compiled model on .npy files, without Python.
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../burnish_runtime.h"
#include "npy.h"

namespace {

constexpr char kUsage[] =
    "usage: burnish_run MODEL.burnish [NAME=FILE.npy ...] [-o DIR] [options]\n"
    "\n"
    "Runs a compiled model on one .npy file for each input, and writes one for each output.\n"
    "\n"
    "  -o, --output DIR  write the outputs to DIR/NAME.npy\n"
    "  --threads N       threads of a run; default: all CPUs that the process may use\n"
    "  --repeat N        run N times and print the fastest, median and slowest time\n"
    "  --device N        which of several devices of the model's kind; default: 0\n"
    "  --json            print times and files as JSON\n"
    "  --help            print this\n"
    "\n"
    "It exits with 2 for a wrong file or argument, 4 if the model fails or does not take the\n"
    "inputs, and 5 where a library or device is not available.\n";

// An error with its exit code.
struct Exit : std::runtime_error {
  Exit(int code, const std::string& message) : std::runtime_error(message), code(code) {}
  int code;
};

struct Options {
  std::string model, output;
  std::map<std::string, std::string> inputs;
  int threads = 0, repeat = 1, device = 0;
  bool json = false, help = false;
};

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

void Check(int status) {
  if (status != BURNISH_OK) throw Exit(status, burnish_last_error());
}

int Number(const std::string& option, const char* text, int least) {
  char* end = nullptr;
  long value = std::strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < least || value > 1'000'000) {
    throw Exit(BURNISH_INVALID, option + " wants a number of at least " + std::to_string(least) +
                                    ", not '" + text + "'");
  }
  return static_cast<int>(value);
}

void Positional(const std::string& argument, Options* options) {
  size_t equals = argument.find('=');
  if (options->model.empty()) {
    options->model = argument;
  } else if (equals == std::string::npos || equals == 0) {
    throw Exit(BURNISH_INVALID, "not an input: '" + argument + "'; write NAME=FILE.npy");
  } else if (!options->inputs.emplace(argument.substr(0, equals), argument.substr(equals + 1))
                  .second) {
    throw Exit(BURNISH_INVALID, "the input '" + argument.substr(0, equals) + "' is given twice");
  }
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    auto value = [&] {
      if (i + 1 == argc) throw Exit(BURNISH_INVALID, argument + " wants a value");
      return argv[++i];
    };
    if (argument == "--help" || argument == "-h") {
      options.help = true;
    } else if (argument == "--json") {
      options.json = true;
    } else if (argument == "-o" || argument == "--output") {
      options.output = value();
    } else if (argument == "--threads") {
      options.threads = Number(argument, value(), 1);
    } else if (argument == "--repeat") {
      options.repeat = Number(argument, value(), 1);
    } else if (argument == "--device") {
      options.device = Number(argument, value(), 0);
    } else if (argument[0] == '-') {
      throw Exit(BURNISH_INVALID, "unknown option " + argument + "; see burnish_run --help");
    } else {
      Positional(argument, &options);
    }
  }
  if (options.model.empty() && !options.help) {
    throw Exit(BURNISH_INVALID, "no model given; see burnish_run --help");
  }
  return options;
}

std::string Describe(const BurnishTensorInfo& info) {
  std::string text = std::string(info.name) + "[";
  for (int32_t i = 0; i < info.ndim; ++i) {
    text += (i > 0 ? ", " : "") + std::string(*info.dims[i] == '\0' ? "?" : info.dims[i]);
  }
  return text + "]";
}

std::vector<burnish::Array> ReadInputs(BurnishModel* model, const Options& options) {
  std::vector<burnish::Array> arrays;
  std::string takes;
  const BurnishTensorInfo* infos = burnish_model_inputs(model);
  int32_t count = burnish_model_num_inputs(model);
  for (int32_t i = 0; i < count; ++i) takes += (i > 0 ? ", " : "") + Describe(infos[i]);
  for (const auto& [name, file] : options.inputs) {
    if (std::none_of(infos, infos + count, [&](const auto& info) { return name == info.name; })) {
      throw Exit(BURNISH_INVALID, "the model has no input '" + name + "'; it takes " + takes);
    }
  }
  for (int32_t i = 0; i < count; ++i) {
    auto found = options.inputs.find(infos[i].name);
    if (found == options.inputs.end()) {
      throw Exit(BURNISH_INVALID, "no file for the input '" + std::string(infos[i].name) +
                                      "'; the model takes " + takes);
    }
    try {
      arrays.push_back(burnish::ReadNpy(found->second, infos[i].dtype));
    } catch (const std::runtime_error& error) {
      throw Exit(BURNISH_INVALID, error.what());
    }
  }
  return arrays;
}

// A file name from an output's name, which may have any character.
std::string FileName(std::string name, std::set<std::string>* taken) {
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_' && c != '-' && c != '.') {
      c = '_';
    }
  }
  if (name.empty() || name[0] == '.') name = "_" + name;
  while (!taken->insert(name).second) name += "_";
  return name + ".npy";
}

// An output's name, and the file that it was written to.
using Written = std::vector<std::pair<std::string, std::string>>;

Written WriteOutputs(BurnishModel* model, const std::vector<BurnishTensor>& outputs,
                     const std::string& folder) {
  std::set<std::string> taken;
  Written written;
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string name = burnish_model_outputs(model)[i].name;
    std::string file = folder + "/" + FileName(name, &taken);
    try {
      burnish::WriteNpy(file, outputs[i]);
    } catch (const std::runtime_error& error) {
      throw Exit(BURNISH_INVALID, error.what());
    }
    written.emplace_back(name, file);
  }
  return written;
}

struct Result {
  double load = 0;            // milliseconds
  std::vector<double> times;  // of each run
  Written written;
};

// Runs the model as often as asked.
void RunModel(BurnishModel* model, const Options& options, Result* result) {
  std::vector<burnish::Array> inputs = ReadInputs(model, options);
  std::vector<const void*> data;
  std::vector<int32_t> ndims;
  std::vector<int64_t> shapes;
  for (const burnish::Array& input : inputs) {
    data.push_back(input.data.data());
    ndims.push_back(static_cast<int32_t>(input.shape.size()));
    shapes.insert(shapes.end(), input.shape.begin(), input.shape.end());
  }
  int threads = options.threads > 0 ? options.threads : burnish_default_threads();
  std::vector<BurnishTensor> outputs(static_cast<size_t>(burnish_model_num_outputs(model)));
  for (int run = 0; run < options.repeat; ++run) {
    if (run > 0) {
      for (const BurnishTensor& output : outputs) burnish_tensor_release(output.handle);
    }
    Clock::time_point start = Clock::now();
    Check(burnish_model_run(model, data.data(), ndims.data(), shapes.data(), threads,
                            outputs.data()));
    result->times.push_back(Milliseconds(start));
  }
  if (!options.output.empty()) result->written = WriteOutputs(model, outputs, options.output);
  for (const BurnishTensor& output : outputs) burnish_tensor_release(output.handle);
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    char escape[8];
    std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned char>(c));
    bool special = c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20;
    quoted += special ? escape : std::string(1, c);
  }
  return quoted + "\"";
}

void PrintJson(const Result& result) {
  std::printf("{\"load_ms\": %.4f, \"run_ms\": [", result.load);
  const char* separator = "";
  for (double time : result.times) {
    std::printf("%s%.4f", separator, time);
    separator = ", ";
  }
  std::printf("], \"outputs\": {");
  separator = "";
  for (const auto& [name, file] : result.written) {
    std::printf("%s%s: %s", separator, Quoted(name).c_str(), Quoted(file).c_str());
    separator = ", ";
  }
  std::printf("}}\n");
}

void PrintText(const Result& result) {
  std::printf("load %.3f ms\n", result.load);
  std::vector<double> times = result.times;
  std::sort(times.begin(), times.end());
  if (times.size() == 1) {
    std::printf("run  %.3f ms\n", times[0]);
  } else {
    std::printf("run  min %.3f ms, median %.3f ms, max %.3f ms (%zu runs)\n", times[0],
                times[times.size() / 2], times.back(), times.size());
  }
  for (const auto& [name, file] : result.written) {
    std::printf("%s -> %s\n", name.c_str(), file.c_str());
  }
}

int Run(int argc, char** argv) {
  Options options = Parse(argc, argv);
  if (options.help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  Clock::time_point start = Clock::now();
  BurnishModel* model = nullptr;
  Check(burnish_model_load(options.model.c_str(), options.device, &model));
  Result result;
  result.load = Milliseconds(start);
  RunModel(model, options, &result);
  burnish_model_free(model);
  (options.json ? PrintJson : PrintText)(result);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int code = 1;
  std::string message;
  try {
    return Run(argc, argv);
  } catch (const Exit& error) {
    code = error.code;
    message = error.what();
  } catch (const std::bad_alloc&) {
    code = BURNISH_FAILED;
    message = "out of memory";
  } catch (const std::exception& error) {
    message = error.what();
  }
  // TVM's messages may go on with a trace: one line says what went wrong.
  std::fprintf(stderr, "burnish_run: %s\n", message.substr(0, message.find('\n')).c_str());
  return code;
}
