// Plays a world that answers the keys, as a game engine would.
//
//     make -C examples/cpp && out/cpp/play --at 127.0.0.1:50051 --seconds 10
//
// It opens a session, watches raw frames, holds keys by a small script, and says what became of each. Where a call
// breaks it comes back: no frame is skipped or comes twice, and no control is lost or obeyed twice. A tenant's key
// comes from --api-key-file or AAPT_API_KEY, a session's token, for --session, from AAPT_TOKEN.
#include <algorithm>
#include <cmath>
#include <iostream>

#include "calls.h"
#include "livevideo/v1/frame.grpc.pb.h"
#include "livevideo/v1/session.grpc.pb.h"
#include "steering.h"

using namespace livevideo::v1;
using Clock = std::chrono::steady_clock;

constexpr auto kAnswer = std::chrono::seconds(15);
constexpr auto kLeave = std::chrono::seconds(5);
constexpr double kFirstFrameS = 10.0, kFrameS = 2.0;  // who brings none for so long hangs
constexpr int kPingMs = 2000;  // who does not answer a ping for so long is gone

// Keys that are down, from so many seconds after the first frame on.
const std::vector<std::pair<double, std::vector<std::string>>> kScript = {
    {0.0, {"up"}}, {2.0, {"up", "left"}}, {3.0, {"up"}}, {5.0, {"up", "right"}}, {6.0, {"up"}}};

double seconds_since(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

// What came, and how evenly.
struct Sights {
  uint64_t frames = 0, next_index = 0, gaps = 0, comebacks = 0;
  double brightness = 0.0;  // of the newest frame, 0 to 255
  std::vector<double> between_s;
  Clock::time_point first, newest;

  void saw(const Frame& frame) {
    const auto now = Clock::now();
    if (frames++ == 0) first = now;
    else {
      between_s.push_back(std::chrono::duration<double>(now - newest).count());
      gaps += frame.index() != next_index;
    }
    newest = now;
    next_index = frame.index() + 1;
    uint64_t sum = 0;
    for (const unsigned char level : frame.picture()) sum += level;
    brightness = frame.picture().empty() ? 0.0 : double(sum) / double(frame.picture().size());
  }

  void print() {
    std::sort(between_s.begin(), between_s.end());
    const auto at = [&](double share) { return between_s[size_t(share * double(between_s.size() - 1))]; };
    std::cout << frames << " frames, " << gaps << " gaps, " << comebacks << " comebacks, brightness " << brightness;
    if (!between_s.empty()) {
      const double fps = double(frames - 1) / std::chrono::duration<double>(newest - first).count();
      std::cout << ", " << fps << " a second; between two: median " << 1000 * at(0.5) << " ms, longest "
                << 1000 * between_s.back() << " ms";
    }
    std::cout << "\n";
  }
};

// Watches for so long, or until the session ends. Throws what ends it, once a seat is not kept any longer.
void watch(FrameService::Stub& decoder, const Session& session, double seconds, Steering& steering, Sights& sights) {
  const auto left_s = [&] { return sights.frames ? seconds - seconds_since(sights.first) : HUGE_VAL; };
  size_t line = 0;
  bool is_away = false;
  for (auto heard = Clock::now(); left_s() > 0.0;) {
    const auto context = std::make_shared<grpc::ClientContext>();
    bear(*context, session.token());
    Alarm alarm(context);
    alarm.set(std::min(kFirstFrameS, left_s()));
    const auto call = decoder.Watch(context.get());
    WatchRequest said;
    said.mutable_start()->set_session_id(session.session_id());
    said.mutable_start()->set_format(FRAME_FORMAT_RGB8);
    said.mutable_start()->set_from_frame_index(sights.next_index);
    call->Write(said);
    for (WatchResponse response; left_s() > 0.0 && call->Read(&response);) {
      if (!response.has_frame()) continue;
      sights.saw(response.frame());
      alarm.set(std::min(kFrameS, left_s()));
      heard = Clock::now();
      is_away = false;
      if (line < kScript.size() && seconds_since(sights.first) >= kScript[line].first)
        steering.hold(kScript[line++].second);
      // Here a game draws the frame. That it was shown is the permission to send another one.
      said.mutable_shown()->set_frame_index(response.frame().index());
      call->Write(said);
    }
    if (left_s() <= 0.0) context->TryCancel();
    const grpc::Status status = call->Finish();
    if (status.ok() || left_s() <= 0.0) return;
    const bool is_silent = status.error_code() == grpc::CANCELLED;  // by the alarm
    const auto why = is_silent ? std::runtime_error("no frame came") : refused(status, *context);
    const bool is_passing = is_silent || passes(status, *context, sights.frames > 0);
    if (!is_passing || seconds_since(heard) > kLeaseS) throw why;
    if (!is_away) {
      std::cout << "frames broke off (" << why.what() << "); coming back for frame " << sights.next_index << "\n";
      sights.comebacks++;
    }
    is_away = true;
    std::this_thread::sleep_for(kAgain);
  }
}

// A new session, or the one that is named.
Session entered(SessionService::Stub& sessions, const std::string& session_id, const std::string& key_file) {
  grpc::ClientContext context;
  answer_within(context, kAnswer);
  Session session;
  grpc::Status status;
  if (session_id.empty()) {
    bear(context, secret(key_file, "AAPT_API_KEY"));
    status = sessions.Open(&context, OpenRequest(), &session);
  } else {
    const std::string token = secret("", "AAPT_TOKEN");
    bear(context, token);
    GetRequest request;
    request.set_session_id(session_id);
    status = sessions.Get(&context, request, &session);
    session.set_token(token);
  }
  if (!status.ok()) throw refused(status, context);
  return session;
}

// Ends the session: its seat is free at once.
void leave(SessionService::Stub& sessions, const Session& session) {
  grpc::ClientContext context;
  answer_within(context, kLeave);
  bear(context, session.token());
  CloseRequest request;
  request.set_session_id(session.session_id());
  CloseResponse response;
  sessions.Close(&context, request, &response);  // what cannot be told to anybody expires
}

// Throws where it is none.
double seconds_in(const std::string& text) {
  size_t read = 0;
  double seconds = NAN;
  try {
    seconds = std::stod(text, &read);
  } catch (const std::logic_error&) {
  }
  if (read != text.size() || !(seconds >= 0.0) || std::isinf(seconds))
    throw std::runtime_error("--seconds is '" + text + "'; give a number of 0 or more");
  return seconds;
}

void play(std::map<std::string, std::string> options) {
  const double seconds = seconds_in(options["--seconds"]);
  grpc::ChannelArguments how;
  how.SetMaxReceiveMessageSize(8 << 20);
  how.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMs);
  how.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingMs);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options["--ca-file"].empty()) {
    grpc::SslCredentialsOptions believed;
    believed.pem_root_certs = content(options["--ca-file"]);
    if (believed.pem_root_certs.find("-----BEGIN CERTIFICATE-----") == std::string::npos)
      throw std::runtime_error(options["--ca-file"] + " holds no certificate; give that of who signs the services'");
    credentials = grpc::SslCredentials(believed);
  }
  const auto channel = grpc::CreateCustomChannel(options["--at"], credentials, how);
  const auto sessions = SessionService::NewStub(channel);
  const Session session = entered(*sessions, options["--session"], options["--api-key-file"]);
  std::cout << "session " << session.session_id() << ": " << session.model().name() << ", "
            << session.model().width_px() << "x" << session.model().height_px() << "\n";
  Sights sights;
  std::exception_ptr broken;
  try {
    Steering steering(channel, session);
    watch(*FrameService::NewStub(channel), session, seconds, steering, sights);
  } catch (const std::exception&) {
    broken = std::current_exception();
  }
  // A session that was joined and not seen is left to whoever plays it.
  if (sights.frames || options["--session"].empty()) leave(*sessions, session);
  sights.print();
  if (broken) std::rethrow_exception(broken);
}

int main(int count, char** words) {
  std::map<std::string, std::string> options = {
      {"--at", "127.0.0.1:50051"}, {"--seconds", "10"}, {"--api-key-file", ""}, {"--ca-file", ""}, {"--session", ""}};
  std::cout << std::unitbuf;  // who reads along hears it at once
  try {
    for (int i = 1; i < count; i += 2) {
      if (!options.count(words[i]) || i + 1 == count) {
        std::cerr << "play [--at HOST:PORT] [--seconds N] [--api-key-file F] [--ca-file F] [--session ID]\n";
        return 2;
      }
      options[words[i]] = words[i + 1];
    }
    play(options);
  } catch (const std::exception& refusal) {
    std::cerr << "cannot play: " << refusal.what() << "\n";
    return 2;
  }
  return 0;
}
