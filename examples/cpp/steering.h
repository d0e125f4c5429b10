// `Steering`: a session's controls, each stored once and in order, and what became of them.
#pragma once
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
      : stub_(livevideo::v1::ControlService::NewStub(channel)), session_(session) {
    begin();
    hearing_ = std::thread([this] { hear(); });
  }

  ~Steering() {
    {
      std::lock_guard<std::mutex> guard(lock_);
      is_closing_ = true;
      context_->TryCancel();
    }
    hearing_.join();
  }

  // These keys are down from now on, and no others.
  void hold(const std::vector<std::string>& keys) {
    std::lock_guard<std::mutex> guard(lock_);
    livevideo::v1::ControlEvent event;
    event.set_session_id(session_.session_id());
    event.set_seq(++seq_);
    event.mutable_keys();  // also where none is down
    for (const auto& key : keys) event.mutable_keys()->add_down(key);
    unheard_[seq_] = event;
    if (call_) call_->Write(event);  // what is lost on the way is sent again by who hears that the call broke
  }

 private:
  void begin() {
    context_ = std::make_unique<grpc::ClientContext>();
    bear(*context_, session_.token());
    call_ = stub_->Send(context_.get());
    sent_again_ = unheard_.empty() ? 0 : unheard_.rbegin()->first;
    for (const auto& [seq, event] : unheard_) call_->Write(event);  // under their old numbers
  }

  void hear() {
    bool has_worked = false, is_away = false;
    for (livevideo::v1::ControlReceipt receipt;;) {
      while (call_->Read(&receipt)) {
        has_worked = true;
        is_away = false;
        take(receipt);
      }
      std::unique_lock<std::mutex> guard(lock_);
      const grpc::Status status = call_->Finish();
      call_.reset();
      if (is_closing_) return;
      if (status.ok() || !passes(status, *context_, has_worked)) {
        std::cerr << "controls are not heard any more: " << refused(status, *context_).what() << "\n";
        return;
      }
      if (!is_away) std::cout << "controls broke off (" << status.error_message() << "); sending them again\n";
      is_away = true;
      guard.unlock();
      std::this_thread::sleep_for(kAgain);
      guard.lock();
      if (is_closing_) return;
      begin();
    }
  }

  void take(const livevideo::v1::ControlReceipt& receipt) {
    std::lock_guard<std::mutex> guard(lock_);
    const bool is_first = unheard_.erase(receipt.seq()) != 0;
    // It was stored before the call broke, and only its receipt was lost; or not even that.
    const bool is_stored = receipt.refused().reason() == "old_seq" && receipt.seq() <= sent_again_;
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
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<livevideo::v1::ControlEvent, livevideo::v1::ControlReceipt>>
      call_;  // none where one broke and the next has not begun
  std::map<uint64_t, livevideo::v1::ControlEvent> unheard_;  // sent, and nobody has said what became of it
  uint64_t seq_ = 0, sent_again_ = 0;
  bool is_closing_ = false;
  std::thread hearing_;
};
