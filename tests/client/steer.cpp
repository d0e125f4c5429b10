// Holds more sets of keys at once than control takes, through examples/cpp/steering.h.
#include "steering.h"

int main(int, char** words) {
  std::cout << std::unitbuf;  // who waits for a line hears it at once
  livevideo::v1::Session session;
  session.set_session_id("one");
  Steering steering(grpc::CreateChannel(words[1], grpc::InsecureChannelCredentials()), session);
  for (int left = std::atoi(words[2]); left > 0; --left) steering.hold({left % 2 ? "up" : "left"});
  std::string line;
  std::getline(std::cin, line);  // until whoever started it has seen enough
}
