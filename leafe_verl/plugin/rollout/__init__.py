"""From a task to exploration trees and SFT examples: everything that runs in verl's rollout workers."""
