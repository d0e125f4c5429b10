// `Steering`: a session's controls, each stored once and in order, and what became of them.
#pragma once
#include <algorithm>
#include <condition_variable>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "calls.h"
#include "livevideo/v1/control.grpc.pb.h"
#include "livevideo/v1/session.pb.h"

// Holds one `Send` open, prints the receipts, and calls again where it breaks.
class Steering {
 public:
  Steering(std::shared_ptr<grpc::Channel> channel, const livevideo::v1::Session& session)
      : stub_(livevideo::v1::ControlService::NewStub(channel)), session_(session), seq_(session.newest_seq()) {
    hearing_ = std::thread([this] { hear(); });
  }

  ~Steering() {
    {
      std::lock_guard<std::mutex> guard(lock_);
      is_closing_ = true;
      if (context_) context_->TryCancel();
    }
    changed_.notify_one();
    hearing_.join();
  }

  // These keys are down from now on, and no others. Throws where controls are taken no more.
  void hold(const std::vector<std::string>& keys) {
    std::lock_guard<std::mutex> guard(lock_);
    if (!refused_.empty()) throw std::runtime_error(refused_);
    const bool is_next = unheard_.upper_bound(written_) == unheard_.end();  // nothing waits before it
    livevideo::v1::ControlEvent event;
    event.set_session_id(session_.session_id());
    event.set_seq(++seq_);
    event.mutable_keys();  // also where none is down
    for (const auto& key : keys) event.mutable_keys()->add_down(key);
    unheard_[seq_] = event;
    if (call_ && is_next) write();
    changed_.notify_one();
  }

 private:
  void hear() {
    bool has_worked = false, is_away = false;
    for (std::unique_lock<std::mutex> guard(lock_);;) {
      // A Send whose first event does not come within five seconds is refused: call when there is one.
      changed_.wait(guard, [this] { return is_closing_ || !unheard_.empty(); });
      if (is_closing_) return;
      context_ = std::make_unique<grpc::ClientContext>();
      bear(*context_, session_.token());
      guard.unlock();
      auto call = stub_->Send(context_.get());  // waits for a connection
      guard.lock();
      call_ = std::move(call);
      sent_before_ = std::max(sent_before_, written_);
      written_ = 0;
      batch_ = 1;  // until control has said how many it takes
      pause_ = std::chrono::microseconds(0);
      write();  // what is unheard, under its old numbers
      guard.unlock();
      for (livevideo::v1::ControlReceipt receipt; call_->Read(&receipt);) {
        has_worked = true;
        is_away = false;
        guard.lock();
        learn();
        take(receipt);
        write_rest(guard);
        guard.unlock();
      }
      guard.lock();
      const grpc::Status status = call_->Finish();
      call_.reset();
      if (is_closing_) return;
      if (!status.ok() && !passes(status, *context_, has_worked)) {
        refused_ = std::string("controls are taken no more: ") + refused(status, *context_).what();
        std::cerr << refused_ << "\n";
        return;
      }
      if (!is_away) std::cout << "controls broke off (" << status.error_message() << ")\n";
      is_away = true;
      changed_.wait_for(guard, kAgain, [this] { return is_closing_; });
    }
  }

  // control takes so many a second, and so many at once; what is more is refused as a flood.
  void learn() {
    const auto& said = context_->GetServerInitialMetadata();
    const auto number = [&said](const char* key, double otherwise) {
      const auto found = said.find(key);
      return found == said.end() ? otherwise : std::stod(std::string(found->second.data(), found->second.size()));
    };
    const double per_s = number("controls-per-s", session_.controls_per_s() > 0.0 ? session_.controls_per_s() : 200.0);
    if (pause_.count() == 0) written_at_ = {};  // the first one alone is waited for by none
    batch_ = std::max(1, int(std::min(per_s / 4.0, number("controls-at-once", per_s / 2.0) / 2.0)));
    pause_ = std::chrono::microseconds(int64_t(1.2e6 * batch_ / per_s));
  }

  // Of what waits, as much as may be unheard at once.
  void write() {
    auto next = unheard_.upper_bound(written_);
    for (auto unheard = std::distance(unheard_.begin(), next); next != unheard_.end() && unheard < batch_; ++unheard) {
      call_->Write(next->second);  // what is lost on the way is sent again when the call has broken
      written_ = next++->first;
    }
    written_at_ = std::chrono::steady_clock::now();
  }

  // What waits longer, once all before it is heard of, and not so soon that it would be a flood.
  void write_rest(std::unique_lock<std::mutex>& guard) {
    if (unheard_.empty() || unheard_.begin()->first <= written_) return;
    changed_.wait_until(guard, written_at_ + pause_, [this] { return is_closing_; });
    write();
  }

  void take(const livevideo::v1::ControlReceipt& receipt) {
    const bool is_first = unheard_.erase(receipt.seq()) != 0;
    // It was stored before the call broke, and only its receipt was lost; or not even that.
    const bool is_stored = receipt.refused().reason() == "old_seq" && receipt.seq() <= sent_before_;
    if (is_stored && !is_first) return;
    std::cout << "control " << receipt.seq();
    if (receipt.has_obeyed())
      std::cout << ": obeyed from frame " << receipt.obeyed().frame_index() << " on\n";
    else if (receipt.has_accepted() || is_stored)
      std::cout << ": accepted\n";
    else
      std::cout << ": refused, " << receipt.refused().message() << "\n";
  }

  std::unique_ptr<livevideo::v1::ControlService::Stub> stub_;
  const livevideo::v1::Session session_;
  std::mutex lock_;  // of all below
  int batch_ = 1;
  std::chrono::microseconds pause_{0};
  std::condition_variable changed_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<livevideo::v1::ControlEvent, livevideo::v1::ControlReceipt>>
      call_;  // none until there is something to say, and between one that broke and the next
  std::map<uint64_t, livevideo::v1::ControlEvent> unheard_;  // nobody has said what became of it
  uint64_t seq_, written_ = 0, sent_before_ = 0;  // newest number of all, of this call, of the calls before it
  std::chrono::steady_clock::time_point written_at_;
  std::string refused_;  // why controls are taken no more
  bool is_closing_ = false;
  std::thread hearing_;
};
