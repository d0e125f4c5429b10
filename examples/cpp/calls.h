// What every call needs: who one is, how long one waits, and what a refusal says.
#pragma once
#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

constexpr double kLeaseS = 30.0;  // how long a seat waits for its viewer
constexpr auto kAgain = std::chrono::milliseconds(200);  // between two tries

// What a refusal says beside its sentence; empty where it does not.
inline std::string told(const grpc::ClientContext& context, const char* name) {
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto found = trailing.find(name);
  return found == trailing.end() ? "" : std::string(found->second.data(), found->second.size());
}

// Why a call was refused, and when it may be worth another try.
inline std::runtime_error refused(const grpc::Status& status, const grpc::ClientContext& context) {
  const std::string again_s = told(context, "retry-after-s");
  std::string reason = told(context, "reason");
  if (reason.empty())
    reason = status.error_code() == grpc::UNAVAILABLE
                 ? "nobody answers there, or not with a certificate that is believed"
                 : "the call ended with code " + std::to_string(status.error_code());
  return std::runtime_error(reason + ": " + status.error_message() +
                            (again_s.empty() ? "" : "; try again in " + again_s + " s"));
}

// Whether another instance, or a little later the same one, may not refuse.
inline bool passes(const grpc::Status& status, const grpc::ClientContext& context, bool has_worked) {
  if (!has_worked) return status.error_code() == grpc::UNAVAILABLE;  // a refusal at the door is meant
  switch (status.error_code()) {
    case grpc::UNAVAILABLE:
    case grpc::INTERNAL:
    case grpc::UNKNOWN:
    case grpc::DEADLINE_EXCEEDED:
    case grpc::RESOURCE_EXHAUSTED:
    case grpc::CANCELLED:
      return true;
    default:  // a seat that was lost may still look taken for a moment
      return told(context, "reason") == "seat_taken";
  }
}

inline void bear(grpc::ClientContext& context, const std::string& secret) {
  if (!secret.empty()) context.AddMetadata("authorization", "Bearer " + secret);
}

// Cancels a call where nobody sets it again in time: Read alone waits for as long as the other end hangs.
class Alarm {
 public:
  explicit Alarm(std::shared_ptr<grpc::ClientContext> call) : call_(std::move(call)) {}

  void set(double within_s) {
    const auto within = std::chrono::microseconds(int64_t(1e6 * std::max(0.0, within_s)));
    alarm_ = std::make_unique<grpc::Alarm>();  // the one before is off
    alarm_->Set(std::chrono::system_clock::now() + within, [call = call_](bool is_due) {
      if (is_due) call->TryCancel();
    });
  }

 private:
  const std::shared_ptr<grpc::ClientContext> call_;
  std::unique_ptr<grpc::Alarm> alarm_;
};

inline void answer_within(grpc::ClientContext& context, std::chrono::seconds most) {
  context.set_deadline(std::chrono::system_clock::now() + most);
}

// The whole file. Throws where it cannot be read.
inline std::string content(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("the file " + path + " cannot be read");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A secret from a file, else from the environment; empty where there is neither.
inline std::string secret(const std::string& path, const char* variable) {
  const char* set = std::getenv(variable);
  std::string found = path.empty() ? (set ? set : "") : content(path);
  found.erase(found.find_last_not_of(" \r\n") + 1);
  const auto can_be_sent = [](char each) { return each > ' ' && each <= '~'; };
  if (!std::all_of(found.begin(), found.end(), can_be_sent))
    throw std::runtime_error("there is no key in " + (path.empty() ? variable : path) + "; put it there alone");
  return found;
}
