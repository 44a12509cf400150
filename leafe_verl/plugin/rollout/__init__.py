"""Everything that runs in verl's rollout workers: it turns tasks into exploration trees and SFT examples."""
